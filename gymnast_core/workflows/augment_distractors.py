"""`gymnast augment distractors`: start frames with things added that do not matter.

What is protected, and all that is not bare table, is the original's in every result, bit for bit, whoever added things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from gymnast_core.compositing.compose import Scene, compose
from gymnast_core.compositing.masks import grow, restore
from gymnast_core.compositing.objects import SOLIDS, Object, read_objects
from gymnast_core.data.frames import read_image, resize_frame
from gymnast_core.errors import DataError
from gymnast_core.files import user_path
from gymnast_core.progress import Interruption, interruptible, progress_bar, say
from gymnast_core.reporting.media import sheet, write_picture
from gymnast_core.seeds import derive_seed
from gymnast_core.workflows.augment_asking import CHECK, CHECKED, EDIT, ask_checks, open_editor, open_talk
from gymnast_core.workflows.augment_config import DistractorsConfig
from gymnast_core.workflows.augment_folder import Augmented, StartsFolder
from gymnast_core.workflows.augment_frames import Frames, Source, open_frames

LEAST_CHANGE, MOST_CHANGE = 0.002, 0.6
"""Share of the free pixels that an edit changes: with less nothing was added, with more the table was drawn anew."""
LEAST_FREE = 0.02
"""Share of a frame that must be free for anything to be added."""
ON_SHEET = 8
SIDE = 192


def augment_distractors(config: DistractorsConfig) -> int:
    """The verb; 0 when every frame was made, 1 when some were left out, 130 when interrupted."""
    return Distractors(config)()


@dataclass(frozen=True)
class Job:
    """One new frame to make. name: of its start in the folder."""

    source: Source
    scene: Scene
    name: str
    number: int


@dataclass(frozen=True)
class Edited:
    """What came of a job: a frame (H, W, 3) uint8 with its lineage, or in words why there is none."""

    frame: np.ndarray | None
    lineage: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Distractors:
    """All new frames of one call; its methods are the steps."""

    def __init__(self, config: DistractorsConfig) -> None:
        self.config = config
        self.frames: Frames = open_frames(config)
        self.objects: list[Object] = read_objects(config.objects) if config.objects else list(SOLIDS)
        options = {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name not in ("out", "editor", "judge", "attempts", "variants")
        }
        options |= {"editor": config.editor.model, "judge": config.judge.model}
        self.folder = StartsFolder(config.out, "distractors", options)
        self.editor = open_editor(config.editor, self.folder.path) if config.by == "model" else None
        self.talk = open_talk(config.judge, self.folder.path) if config.checked else None
        self.left_out: dict[str, str] = {}
        self._on_sheet: set[str] = set()
        self._scenes: dict[str, Scene] = {}
        """Of sources on the sheet: a simulation takes long to say what is where."""

    def __call__(self) -> int:
        sources = self.frames.sources()
        places = np.unique(np.linspace(0, len(sources) - 1, min(ON_SHEET, len(sources))).round().astype(int))
        shown = [sources[place] for place in places]
        self._on_sheet = {one.mark for one in shown}
        with interruptible() as stop, progress_bar() as bar:
            row = bar.add_task("adding distractors", total=len(sources), note="")
            pending: list[Job] = []
            for source in sources:
                if stop:
                    break
                pending += self._jobs(source)
                if len(pending) >= self.width:
                    self.make(pending, stop)
                    pending = []
                bar.advance(row)
            self.make(pending, stop)
        done = self.folder.finish(self.left_out, self._spent(), whole=not stop)
        self._draw_sheet(shown)
        self.frames.close()
        return self._tell(done, stopped=bool(stop))

    @property
    def width(self) -> int:
        """Jobs that are asked for together."""
        return self.config.editor.concurrency if self.editor else 1

    def _jobs(self, source: Source) -> list[Job]:
        """What is still to be made of a source; a source without a usable scene is left out."""
        instruction = source.start.instruction
        names = {k: self.folder.name(source, instruction, k) for k in range(self.config.variants)}
        missing = {k: name for k, name in names.items() if not self.folder.has(name)}
        if not missing:
            return []
        try:
            scene = self._scene(source)
        except DataError as error:
            self._leave_out(source, str(error))
            return []
        if self._free(scene).mean() < LEAST_FREE:
            share = self._free(scene).mean()
            self._leave_out(source, f"{share:.1%} of the frame is bare table, needed {LEAST_FREE:.0%}")
            return []
        return [Job(source, scene, name, number) for number, name in missing.items()]

    def _scene(self, source: Source) -> Scene:
        if source.mark in self._scenes:
            return self._scenes[source.mark]
        scene = self.frames.scene(source)
        if source.mark in self._on_sheet:
            self._scenes[source.mark] = scene
        return scene

    def make(self, jobs: Sequence[Job], stop: Interruption) -> None:
        """Make and check new frames, up to `attempts` times each, and write those that pass. Raises: JudgeError."""
        pending = list(jobs)
        for attempt in range(self.config.attempts):
            if not pending or stop:
                return
            edits = (
                [self._compose(job, attempt) for job in pending]
                if not self.editor
                else self._by_model(pending, attempt)
            )
            edits = self._checked(pending, edits, attempt)
            for job, edit in zip(pending, edits):
                if edit.frame is None:
                    self.left_out[f"{job.source.name} ({job.number})"] = edit.problem
                    continue
                self.left_out.pop(f"{job.source.name} ({job.number})", None)
                lineage = {**edit.lineage, "attempt": attempt, "protected_by": self.frames.protected_by}
                instruction, criteria = job.source.start.instruction, job.source.criteria
                self.folder.write(job.name, edit.frame, instruction, job.source, lineage, criteria)
            pending = [job for job, edit in zip(pending, edits) if edit.frame is None]

    def _free(self, scene: Scene) -> np.ndarray:
        return scene.table & ~grow(scene.protected, self._clearance(scene))

    def _clearance(self, scene: Scene) -> int:
        return round(self.config.clearance * scene.frame.shape[1])

    def _compose(self, job: Job, attempt: int) -> Edited:
        """Place objects that the instruction does not name."""
        config, scene = self.config, job.scene
        seed = derive_seed(config.seed, "distractors", job.source.mark, job.number, attempt)
        random = np.random.default_rng(seed)
        count = int(random.integers(config.fewest, config.most + 1))
        words = set(job.source.start.instruction.lower().split())
        objects = [one for one in self.objects if not words & set(one.name.lower().split())]
        if len(objects) < config.fewest:
            problem = f"{len(objects)} objects that the instruction does not name, needed {config.fewest}"
            return Edited(None, problem=problem)
        frame, placed = compose(scene, objects, count, self._clearance(scene), random)
        if len(placed) < config.fewest:
            return Edited(None, problem=f"room for {len(placed)} objects on the bare table, needed {config.fewest}")
        told = [dataclasses.asdict(one) for one in placed]
        return Edited(frame, {"by": "compositor", "seed": seed, "placed": told})

    def _by_model(self, jobs: Sequence[Job], attempt: int) -> list[Edited]:
        """Ask the model to add objects; what it changed outside the bare table is put back."""
        assert self.editor is not None
        config = self.config
        prompts, asked = [], []
        for job in jobs:
            random = np.random.default_rng(derive_seed(config.seed, "count", job.source.mark, job.number))
            count = int(random.integers(config.fewest, config.most + 1))
            instruction = job.source.start.instruction
            prompts.append(EDIT.format(count=count, instruction=instruction))
            question = self.editor.question(job.scene.frame, self._free(job.scene), prompts[-1], instruction)
            # Variants of a frame may be the same question: each has answers of its own.
            asked.append((question, job.number * 100 + attempt))
        found = []
        for job, prompt, said in zip(jobs, prompts, self.editor.answers(asked)):
            picture = self.editor.picture(said, *job.scene.frame.shape[:2])
            if isinstance(picture, str):
                found.append(Edited(None, problem=picture))
            else:
                found.append(self._restored(job, picture, prompt))
        return found

    def _restored(self, job: Job, picture: np.ndarray, prompt: str) -> Edited:
        restored = restore(job.scene.frame, picture, self._free(job.scene))
        if not LEAST_CHANGE <= restored.changed_inside <= MOST_CHANGE:
            share = f"changed {restored.changed_inside:.1%} of the bare table"
            return Edited(None, problem=f"the model {share}, allowed is {LEAST_CHANGE:.1%} to {MOST_CHANGE:.0%}")
        lineage = {
            "by": "model",
            "model": self.config.editor.model,
            "prompt": prompt,
            "changed_outside": round(restored.changed_outside, 4),
            "put_back": restored.changed_outside > 0.0,
        }
        return Edited(restored.frame, lineage)

    def _checked(self, jobs: Sequence[Job], edits: Sequence[Edited], attempt: int) -> list[Edited]:
        """The edits that pass, with the model's verdict in their lineage. Raises: JudgeError."""
        for job, edit in zip(jobs, edits):
            same = edit.frame is None or (edit.frame == job.scene.frame)[job.scene.protected].all()
            assert same, "a protected pixel changed"
        if self.talk is None:
            told = {"check": "protected pixels identical"}
            return [dataclasses.replace(one, lineage={**one.lineage, **told}) for one in edits]
        asked = []
        for job, edit in zip(jobs, edits):
            if edit.frame is not None:
                instruction = job.source.start.instruction
                asked.append(((job.scene.frame, edit.frame), CHECK.format(instruction=instruction), instruction))
        checks = iter(ask_checks(self.talk, asked, CHECKED, attempt))
        found = []
        for edit in edits:
            check = next(checks) if edit.frame is not None else None
            if check is None:
                found.append(edit)
            elif check.passed:
                verdict = {"model": self.config.judge.model, "passed": True, "reason": check.reason}
                found.append(dataclasses.replace(edit, lineage={**edit.lineage, "check": verdict}))
            else:
                found.append(Edited(None, problem=f"not passed: {check.reason}"))
        return found

    # --- what is told -----------------------------------------------------------------------------------------------

    def _leave_out(self, source: Source, why: str) -> None:
        self.left_out[source.name] = why

    def _names(self, source: Source) -> Iterator[str]:
        return (self.folder.name(source, source.start.instruction, k) for k in range(self.config.variants))

    def _spent(self) -> str:
        asked = [one for one in (self.editor, self.talk) if one is not None]
        return "; ".join(one.spending.line for one in asked)

    def _draw_sheet(self, sources: Sequence[Source]) -> None:
        """Some frames with what is protected in them (dark) and free (green), and what was made of them."""
        rows = []
        for source in sources:
            name = next((name for name in self._names(source) if self.folder.has(name)), None)
            if name is None:
                continue
            scene = self._scene(source)
            shown = source.frame.copy()
            shown[scene.protected] //= 3
            free = self._free(scene)
            shown[free] = cv2.addWeighted(shown, 0.6, np.full_like(shown, (60, 220, 90)), 0.4, 0)[free]
            pictures = [source.frame, shown, read_image(self.folder.path / f"{name}.png")]
            rows.append((source.start.instruction, np.hstack([resize_frame(one, SIDE) for one in pictures])))
        if rows:
            write_picture(self.folder.path / "sheet.jpg", sheet(rows))

    def _tell(self, done: Augmented, stopped: bool) -> int:
        for source, why in list(self.left_out.items())[:5]:
            say(f"warning: left out: {source}: {why}", "yellow")
        if len(self.left_out) > 5:
            say(f"warning: {len(self.left_out) - 5} more were left out; augmented.json names them", "yellow")
        put_back = sum(bool(one.get("put_back")) for one in done.starts.values())
        if put_back:
            say(f"in {put_back} frames the model had changed more than bare table; the original's pixels were put back")
        if done.spent:
            say(done.spent)
        say(f"{len(done.starts)} starts in {user_path(self.config.out)}; look at sheet.jpg")
        return 130 if stopped else int(bool(self.left_out))

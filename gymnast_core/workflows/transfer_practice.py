"""One practice of the transfer benchmark: captured, practised, tried, and tried by the canary.

Each step leaves its outcome in the practice's folder, and a step that is done is read instead of repeated:

    frames/, rehearsal/   the start frames, as episodes of no step, and whole episodes of other tasks
    rehearsed/TASK/       trials of the base that those episodes are of
    adapt/                the run folder of `gymnast adapt`
    adapters/             its adapter, where the gate let it through
    trials/TASK/          trials of the adapter, whatever the gate said
    canary/               canary trials, likewise
    practice.json         what came of it all
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.files import write_json
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.results import read_record
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_result import REFUSED, AdaptResult
from gymnast_core.rl.practice import seconds_taken
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile
from gymnast_core.workflows.captures import capture_starts
from gymnast_core.workflows.child import adapt_apart
from gymnast_core.workflows.room import BASE, Check, TrialRoom, reset_seed
from gymnast_core.workflows.transfer_config import TransferConfig
from gymnast_core.workflows.transfer_recipe import GRPO, TransferRecipe
from gymnast_core.workflows.transfer_result import CanaryRecord, PracticeRecord, Trials

RECORD = "practice.json"


@dataclass(frozen=True)
class PlannedPractice:
    """A practice to come: its recipe, as stored with its station file, the seeds of its frames and of itself."""

    recipe: TransferRecipe
    station: StationFile
    frame_seed: int
    seed: int

    @property
    def name(self) -> str:
        """Also of its folder."""
        return f"{self.recipe.name}/frames_{self.frame_seed}_seed_{self.seed}"


def read_practice(folder: Path) -> PracticeRecord | None:
    """The record of a finished practice; None where it is not finished. Raises: CheckpointError for a damaged one."""
    path = folder / RECORD
    return read_record(PracticeRecord, path, "delete it to repeat the practice") if path.exists() else None


def seeds_of(config: TransferConfig) -> str:
    """What all seeds of a benchmark begin with: another split draws others."""
    return f"transfer/{config.split}"


class Practice:
    """One practice in its folder; its methods are the steps, in order. bases: folder of the base policies' trials.

    check: told what is being done, in words; what it raises ends the practice, which can be resumed.
    """

    def __init__(
        self, planned: PlannedPractice, config: TransferConfig, folder: Path, bases: Path, check: Check
    ) -> None:
        self.planned, self.config = planned, config
        self.folder, self.bases = folder, bases
        self.check = check
        self.seeds = seeds_of(config)
        self.station = planned.station.config

    def __call__(self) -> PracticeRecord:
        """All steps. Raises: DataError when practice ends with an error; StationError; CheckpointError."""
        frames, rehearsal = self.capture()
        result = self.adapt(frames, rehearsal)
        with TrialRoom(self.planned.station, self.seeds, self.config.temperature) as room:
            base = self.try_base(room)
            trials, canary = self.try_adapter(room, result)
        record = self.record(result, base, trials, canary)
        write_json(self.folder / RECORD, dataclasses.asdict(record))
        shutil.rmtree(self.folder / "adapt" / "checkpoints", ignore_errors=True)  # there is nothing left to resume
        return record

    def capture(self) -> tuple[list[Path], str]:
        """Start frames of the task, and the folder of those to rehearse, "" without; each from a reset of its own."""
        captures, place = self.planned.recipe.captures, self.planned.frame_seed
        counts = dict.fromkeys(self.station.tasks, captures.rehearsal_frames) | {self.config.task: captures.frames}

        def seed(task: str, number: int) -> int:
            return reset_seed(self.seeds, "frame", task, place, number)

        frames, rehearsal = capture_starts(self.station, self.config.task, counts, seed, self.folder, self.check)
        return frames, self.log_others() or rehearsal

    def log_others(self) -> str:
        """Whole episodes of each other task by the base, beside the start frames to rehearse; their folder, "" without
        any."""
        count, rehearsal = self.planned.recipe.captures.rehearsal_episodes, self.folder / "rehearsal"
        for task in sorted(set(self.station.tasks) - {self.config.task}) if count else ():
            seeds = f"{self.seeds}/rehearsal/{self.planned.frame_seed}"
            with TrialRoom(self.planned.station, seeds, self.config.temperature, log=rehearsal / task) as room:
                room.trials(BASE, task, count, self.folder / "rehearsed" / task, self.check)
        return str(rehearsal) if count else ""

    def adapt(self, frames: Sequence[Path], rehearsal: str) -> AdaptResult:
        """Practise in a process of its own."""
        recipe = self.planned.recipe
        options = {"rehearsal": rehearsal, **recipe.options}
        config = AdaptConfig(
            **options,
            frame=tuple(map(str, frames)),
            instruction=self.station.task(self.config.task).instruction,
            config=str(self.planned.station.path),
            recipe=str(self.planned.station.path.with_name(GRPO)),
            run=str(self.folder / "adapt"),
            adapters=str(self.folder / "adapters"),
            keep_refused=True,
            seed=derive_seed(self.seeds, "practice", self.planned.frame_seed, self.planned.seed),
        )
        return adapt_apart(config, self.check)

    def try_base(self, room: TrialRoom) -> str:
        """The name of the base, once its trials are on record."""
        name = room.base_name
        for task in self.station.tasks:
            room.trials(BASE, task, self.config.trials, self.bases / name / task, self.check)
        return name

    def try_adapter(self, room: TrialRoom, result: AdaptResult) -> tuple[dict[str, Trials], CanaryResult | None]:
        """Trials and canary trials of the adapter, also of one that the gate refused; none where there is none."""
        name = result.adapter_id or result.refused_adapter
        if not name:
            return {}, None
        store = AdapterStore(self.folder / "adapters" if result.accepted else self.folder / "adapt" / REFUSED)
        room.attach(store, name)
        trials = {
            task: room.trials(name, task, self.config.trials, self.folder / "trials" / task, self.check)
            for task in self.station.tasks
        }
        if not self.station.canary.trials:
            return trials, None
        seed = f"{self.planned.frame_seed}/{self.planned.seed}"
        return trials, room.canary(store, name, self.config.task, seed, self.folder / "canary", self.check)

    def record(
        self, result: AdaptResult, base: str, trials: dict[str, Trials], canary: CanaryResult | None
    ) -> PracticeRecord:
        """What came of it."""
        captures, tasks = self.planned.recipe.captures, len(self.station.tasks)
        kept = ("verdict", "state", "reason", "pairs", "void", "trials")
        return PracticeRecord(
            recipe=self.planned.recipe.name,
            frame_seed=self.planned.frame_seed,
            seed=self.planned.seed,
            base=base,
            adapter=result.adapter_id or result.refused_adapter,
            accepted=result.accepted,
            message=result.message,
            imagined_before=result.success_before,
            imagined_after=result.success_after,
            updates=result.iterations,
            chosen_update=result.chosen_update,
            stopped_by=result.stopped_by,
            seconds=round(seconds_taken(RunFolder(self.folder / "adapt")), 1),
            frames=captures.frames + captures.rehearsal_frames * (tasks - 1),
            trials=trials,
            canary=CanaryRecord(**{name: getattr(canary, name) for name in kept}) if canary is not None else None,
        )

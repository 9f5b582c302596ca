"""`gymnast augment instructions`: start frames with other instructions that can be followed from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.config import load_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import user_path
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.progress import interruptible, progress_bar, say
from gymnast_core.rollout.starts import check_instruction
from gymnast_core.workflows.augment_asking import (
    FEASIBLE,
    FEASIBLE_LINES,
    PAPER,
    PROPOSE,
    ask_checks,
    open_talk,
    read_proposals,
    usable_instructions,
)
from gymnast_core.workflows.augment_config import InstructionsConfig
from gymnast_core.workflows.augment_folder import StartsFolder
from gymnast_core.workflows.augment_frames import Source, open_frames

SHIPPED = Path(__file__).resolve().parent / "instructions.yaml"
MORE = 2
"""Proposals that are asked for beyond those that are wanted: some do not pass."""


@dataclass(frozen=True)
class Templates:
    """A file of instructions that replace others."""

    instructions: dict[str, tuple[str, ...]]
    """By the instruction that they replace."""


def read_templates(name: str) -> dict[str, list[str]]:
    """New instructions by the old one, as policies tell instructions apart; name "": the shipped file.

    Raises: ConfigError where the file is wrong, or says an instruction twice.
    """
    path = user_path(name, "templates") if name else SHIPPED
    found: dict[str, list[str]] = {}
    for old, proposed in load_config(Templates, path).instructions.items():
        try:
            for text in (old, *proposed):
                check_instruction(text)
            usable = usable_instructions(proposed, [old])
        except DataError as error:
            raise ConfigError(f"{path}: instructions.{old}: {error}") from error
        if len(usable) < len(proposed):
            raise ConfigError(
                f"{path}: instructions.{old}: found one that says the same as another; needed different ones"
            )
        found[normalise_instruction(old)] = usable
    return found


def augment_instructions(config: InstructionsConfig) -> int:
    """The verb; 0 when every frame got an instruction, 1 when some got none, 130 when interrupted."""
    return Instructions(config)()


class Instructions:
    """All new instructions of one call; its methods are the steps."""

    def __init__(self, config: InstructionsConfig) -> None:
        if config.candidates and config.by == "templates":
            raise ConfigError(
                "candidates: found some with --by templates, which checks none; write a file of templates"
            )
        self.config = config
        self.candidates = [check_instruction(text, "candidates") for text in config.candidates]
        self.frames = open_frames(config)
        options = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "judge")}
        templates = read_templates(config.templates) if config.by == "templates" else {}
        self.folder = StartsFolder(config.out, "instructions", options | {"judge": config.judge.model})
        self.templates = templates
        self.talk = open_talk(config.judge, self.folder.path) if config.by == "model" else None
        self.left_out: dict[str, str] = {}

    def __call__(self) -> int:
        sources = self.frames.sources()
        self.frames.close()
        width = self.config.judge.concurrency if self.talk else len(sources)
        with interruptible() as stop, progress_bar() as bar:
            row = bar.add_task("finding instructions", total=len(sources), note="")
            for first in range(0, len(sources), width):
                if stop:
                    break
                self.make(sources[first : first + width])
                bar.update(row, completed=min(first + width, len(sources)))
        done = self.folder.finish(self.left_out, self.talk.spending.line if self.talk else "", whole=not stop)
        for source, why in list(self.left_out.items())[:5]:
            say(f"warning: no instruction for {source}: {why}", "yellow")
        if done.spent:
            say(done.spent)
        different = len({str(one["instruction"]) for one in done.starts.values()})
        say(f"{len(done.starts)} starts of {different} instructions in {user_path(self.config.out)}")
        return 130 if stop else int(bool(self.left_out))

    def make(self, sources: Sequence[Source]) -> None:
        """Find instructions for some frames, and write a start for each. Raises: JudgeError."""
        sources = [one for one in sources if not self._is_done(one)]
        by = {"by": self.config.by, **({"model": self.config.judge.model} if self.talk else {})}
        found = self._ask(sources) if self.talk else [self._take(one) for one in sources]
        for source, instructions in zip(sources, found):
            if not instructions:
                self.left_out.setdefault(source.name, "none was feasible")
            # The last one is written first: a frame whose number 0 is there is done.
            for number, (text, reason) in reversed(list(enumerate(instructions[: self.config.each]))):
                check = {"check": {"passed": True, "reason": reason}} if self.talk else {}
                lineage = {**by, "replaces": source.start.instruction, "number": number, **check}
                self.folder.write(self._name(source, number), source.frame, text, source, lineage)

    def _name(self, source: Source, number: int) -> str:
        return self.folder.name(source, source.start.instruction, number)

    def _is_done(self, source: Source) -> bool:
        return self.folder.has(self._name(source, 0))

    def _take(self, source: Source) -> list[tuple[str, str]]:
        """Instructions of the templates, by turns: another frame begins with another one."""
        known = self.templates.get(normalise_instruction(source.start.instruction), [])
        if not known:
            self.left_out[source.name] = f"the templates know no instruction that replaces '{source.start.instruction}'"
            return []
        turn = int(source.mark, 16) % len(known)
        return [(text, "") for text in (*known[turn:], *known[:turn])]

    def _ask(self, sources: Sequence[Source]) -> list[list[tuple[str, str]]]:
        """Instructions that the model proposes and, asked about each by itself, finds feasible."""
        assert self.talk is not None
        count = self.config.each + MORE
        examples = "\n".join(f"- {text}" for text in PAPER)
        asked = []
        for source in sources:
            text = PROPOSE.format(instruction=source.start.instruction, count=count, examples=examples)
            read = self.talk.question(
                [source.frame], text, source.start.instruction, lambda said: bool(read_proposals(said))
            )
            asked.append((read, 0))
        proposed: list[list[str]] = []
        for source, said in zip(sources, self.talk.answers(asked)):
            listed = read_proposals(said.text or "")
            if listed is None:
                self.left_out[source.name] = said.problem or "the model's answer holds no list of instructions"
            usable = usable_instructions([*self.candidates, *(listed or [])], [source.start.instruction])
            proposed.append(usable[: len(self.candidates) + count])
        pairs = [(place, text) for place, texts in enumerate(proposed) for text in texts]
        questions = [((sources[place].frame,), FEASIBLE.format(instruction=text), text) for place, text in pairs]
        found: list[list[tuple[str, str]]] = [[] for _ in sources]
        for (place, text), check in zip(pairs, ask_checks(self.talk, questions, FEASIBLE_LINES, 0)):
            if check.passed:
                found[place].append((text, check.reason))
        return found

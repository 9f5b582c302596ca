"""What trials in imagination found: a record for each rollout, a row for each instruction, one result of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.estimates import clustered_rate
from gymnast_core.files import finite_or_none


@dataclass(frozen=True)
class ImaginedRollout:
    """One line of rollouts.jsonl.

    mark: of the start, see `evaluation.imagined_starts.Beginning`. score: the judge's, None for an abstention.
    completed: what success is counted by. reason: the judge's words, with the votes. changed: share of the actions that
    the safety envelope changed. film: name of strip and video in media/, without suffix; empty where none was kept.
    """

    mark: str
    repeat: int
    source: str
    instruction: str
    score: float | None
    completed: bool | None
    confidence: float
    reason: str
    changed: float
    film: str = ""

    @property
    def value(self) -> float:
        """1, 0, or NaN for an abstention."""
        return math.nan if self.completed is None else float(self.completed)

    @property
    def kind(self) -> str:
        """What became of it, in a word."""
        return "no verdict" if self.completed is None else "success" if self.completed else "failure"


@dataclass(frozen=True)
class ImaginedTask:
    """Rollouts of one instruction, or of all.

    success: 0 to 1, over the rollouts with a verdict. standard_error: over starts, since rollouts from one start are no
    independent trials. score: mean of the judge's scores, which may hold partial credit. starts: with a verdict.
    """

    success: float | None
    standard_error: float | None
    score: float | None
    rollouts: int
    abstained: int
    starts: int


@dataclass(frozen=True)
class ImaginedStart:
    """Rollouts from one start. source: the file it is from. judged: rollouts with a verdict."""

    mark: str
    source: str
    instruction: str
    successes: int
    judged: int
    abstained: int

    @property
    def success(self) -> float:
        """0 to 1, NaN without a verdict."""
        return self.successes / self.judged if self.judged else math.nan


@dataclass(frozen=True)
class ImaginedResult:
    """Written to result.json. made_with: what decides a rollout besides its start and seed, by name: weights, judge,
    sampling. side: pixels of the squares that start frames were squashed to. planned: rollouts in all.
    """

    policy: str
    horizon: int
    repeats: int
    temperature: float
    seed: int
    side: int
    made_with: dict[str, str]
    planned: int
    overall: ImaginedTask
    tasks: dict[str, ImaginedTask]
    starts: tuple[ImaginedStart, ...]
    run_folder: str = ""

    @property
    def done(self) -> int:
        """Rollouts on record."""
        return self.overall.rollouts + self.overall.abstained

    @property
    def complete(self) -> bool:
        """Whether every rollout is done."""
        return self.done == self.planned


def figures(task: ImaginedTask) -> tuple[str, str]:
    """Success and its standard error, as people read them."""
    if task.success is None or task.standard_error is None:
        return "-", "-"
    return f"{task.success:.2f}", f"{task.standard_error:.2f}"


def summarise_task(rollouts: Sequence[ImaginedRollout]) -> ImaginedTask:
    """The figures of some rollouts."""
    marks = {mark: number for number, mark in enumerate(sorted({one.mark for one in rollouts}))}
    values = np.array([one.value for one in rollouts])
    judged = np.isfinite(values)
    rate = clustered_rate(values, [marks[one.mark] for one in rollouts])
    scores = [one.score for one in rollouts if one.score is not None and one.completed is not None]
    return ImaginedTask(
        success=finite_or_none(rate.mean),
        standard_error=finite_or_none(rate.standard_error),
        score=float(np.mean(scores)) if scores else None,
        rollouts=rate.n,
        abstained=int((~judged).sum()),
        starts=len({one.mark for one, known in zip(rollouts, judged) if known}),
    )


def summarise_tasks(rollouts: Sequence[ImaginedRollout]) -> dict[str, ImaginedTask]:
    """The figures by instruction, in order of their names."""
    names = sorted({one.instruction for one in rollouts})
    return {name: summarise_task([one for one in rollouts if one.instruction == name]) for name in names}


def summarise_starts(rollouts: Sequence[ImaginedRollout]) -> tuple[ImaginedStart, ...]:
    """The figures by start, in the order in which they come up."""
    by_mark: dict[str, list[ImaginedRollout]] = {}
    for one in rollouts:
        by_mark.setdefault(one.mark, []).append(one)
    return tuple(
        ImaginedStart(
            mark=mark,
            source=found[0].source,
            instruction=found[0].instruction,
            successes=sum(one.completed is True for one in found),
            judged=sum(one.completed is not None for one in found),
            abstained=sum(one.completed is None for one in found),
        )
        for mark, found in by_mark.items()
    )

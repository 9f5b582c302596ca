"""Imagined and real success of policies, and how they go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.correlations import Correlation, correlation, rank_violation
from gymnast_core.data.outcome import Outcome
from gymnast_core.estimates import Estimate, paired_difference, success_rate
from gymnast_core.evaluation.imagined_result import ImaginedResult, ImaginedStart
from gymnast_core.files import finite_or_none


@dataclass(frozen=True)
class RealEpisode:
    """An episode that a policy really played. mark: of its start, as of an imagined one. value: success within the
    horizon, 1 or 0, NaN where nobody knows. outcome: who says so."""

    mark: str
    instruction: str
    value: float
    steps: int
    outcome: Outcome


@dataclass(frozen=True)
class PolicyPoint:
    """Success of one policy, 0 to 1, in imagination and really, with standard errors.

    rollouts, abstained: imagined ones with and without a verdict. episodes: real ones with a known outcome. difference:
    imagined - real success over the `pairs` starts that both share; None where there is none.
    """

    policy: str
    imagined: float
    imagined_error: float
    rollouts: int
    abstained: int
    real: float
    real_error: float
    episodes: int
    difference: float | None
    difference_error: float | None
    pairs: int


@dataclass(frozen=True)
class CorrelationRow:
    """Over policies, for one instruction or all.

    error: mean of imagined - real, with its standard error over policies. absolute_error: mean of its size.
    rank_violation: mean maximum rank violation, see `correlations.rank_violation`.
    """

    policies: int
    pearson: Correlation
    spearman: Correlation
    error: float | None
    error_error: float | None
    absolute_error: float | None
    rank_violation: float | None


@dataclass(frozen=True)
class CorrelationResult:
    """Written to result.json. points, by_task: in the order of the policies. overall: each instruction counts equally.
    horizon: steps within which success counts, on both sides. warnings: what the runs differ in."""

    horizon: int
    overall: CorrelationRow
    tasks: dict[str, CorrelationRow]
    points: tuple[PolicyPoint, ...]
    by_task: dict[str, tuple[PolicyPoint, ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One policy: what was imagined of it, and what it really did."""

    name: str
    imagined: ImaginedResult
    real: tuple[RealEpisode, ...]

    def instructions(self) -> set[str]:
        """Those of which both sides know something."""
        known = {one.instruction for one in self.real if math.isfinite(one.value)}
        return known & {name for name, task in self.imagined.tasks.items() if task.success is not None}


def correlate(measured: Sequence[Measured], seed: int, resamples: int, warnings: Sequence[str]) -> CorrelationResult:
    """The figures of policies that share at least one instruction."""
    tasks = sorted(set.intersection(*(one.instructions() for one in measured)))
    by_task = {task: tuple(_point(one, [task]) for one in measured) for task in tasks}
    points = tuple(_point(one, tasks) for one in measured)
    return CorrelationResult(
        horizon=measured[0].imagined.horizon,
        overall=_row(points, seed, resamples),
        tasks={task: _row(found, seed, resamples) for task, found in by_task.items()},
        points=points,
        by_task=by_task,
        warnings=tuple(warnings),
    )


def _point(one: Measured, tasks: Sequence[str]) -> PolicyPoint:
    """A policy over some instructions, each of which counts equally."""
    imagined = [one.imagined.tasks[task] for task in tasks]
    real = [success_rate([episode.value for episode in one.real if episode.instruction == task]) for task in tasks]
    told = [Estimate(task.success or 0.0, task.standard_error or 0.0, task.rollouts) for task in imagined]
    mean, truth = _mean(told), _mean(real)
    starts = {start.mark: start for start in one.imagined.starts if start.instruction in tasks}
    pairs = _pairs(one.real, starts)
    return PolicyPoint(
        policy=one.name,
        imagined=mean.mean,
        imagined_error=mean.standard_error,
        rollouts=mean.n,
        abstained=sum(task.abstained for task in imagined),
        real=truth.mean,
        real_error=truth.standard_error,
        episodes=truth.n,
        difference=finite_or_none(pairs.mean),
        difference_error=finite_or_none(pairs.standard_error),
        pairs=pairs.n,
    )


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Of independent estimates, with equal weights."""
    error = math.sqrt(sum(one.standard_error**2 for one in estimates)) / len(estimates)
    return Estimate(float(np.mean([one.mean for one in estimates])), error, sum(one.n for one in estimates))


def _pairs(real: Sequence[RealEpisode], starts: Mapping[str, ImaginedStart]) -> Estimate:
    """Imagined - real over the starts that both share. Repeats are averaged first."""
    values: dict[str, list[float]] = {}
    for episode in real:
        if episode.mark in starts and math.isfinite(episode.value):
            values.setdefault(episode.mark, []).append(episode.value)
    return paired_difference(
        [float(np.mean(found)) for found in values.values()], [starts[mark].success for mark in values]
    )


def _row(points: Sequence[PolicyPoint], seed: int, resamples: int) -> CorrelationRow:
    imagined = np.array([one.imagined for one in points])
    real = np.array([one.real for one in points])
    error = paired_difference(real, imagined)
    return CorrelationRow(
        policies=len(points),
        pearson=correlation(imagined, real, "pearson", seed, resamples),
        spearman=correlation(imagined, real, "spearman", seed, resamples),
        error=finite_or_none(error.mean),
        error_error=finite_or_none(error.standard_error),
        absolute_error=finite_or_none(float(np.abs(imagined - real).mean())),
        rank_violation=finite_or_none(rank_violation(real, imagined)),
    )

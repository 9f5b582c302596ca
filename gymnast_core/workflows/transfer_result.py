"""What the transfer benchmark found: one record for each practice, one row for each recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.estimates import Estimate, paired_difference, success_rate

STANDARD_ERRORS = 2.0
"""A fall of another task, or a rise of what is hard on the arm, is real beyond this many of its standard errors."""


@dataclass(frozen=True)
class Trials:
    """Trials of one policy on a task's resets, in their order.

    successes: 1 or 0. strain: holds and refusals of each (`evaluation.canary.hardness`).
    """

    successes: tuple[int, ...]
    strain: tuple[float, ...] = ()

    @property
    def rate(self) -> Estimate:
        """Success, 0 to 1."""
        return success_rate([float(one) for one in self.successes])


@dataclass(frozen=True)
class CanaryRecord:
    """What canary trials said of an adapter, see `evaluation.canary.CanaryResult`. void: pairs that do not count."""

    verdict: str
    state: str
    reason: str
    pairs: int
    void: int
    trials: int


@dataclass(frozen=True)
class PracticeRecord:
    """One practice and what became of its adapter.

    base: names the trials of its base policy. adapter: empty where practice made no update, and the base acts.
    accepted: whether the gate let it through. imagined_before, imagined_after: success in imagination, 0 to 1.
    seconds: of rollouts, updates and validations. frames: station resets captured before it.
    trials: of the adapter by task, whatever the gate said. canary: None where the recipe has no canary trials.
    """

    recipe: str
    frame_seed: int
    seed: int
    base: str
    adapter: str
    accepted: bool
    message: str
    imagined_before: float | None
    imagined_after: float | None
    updates: int
    chosen_update: int
    stopped_by: str
    seconds: float
    frames: int
    trials: dict[str, Trials]
    canary: CanaryRecord | None = None

    @property
    def rolled_back(self) -> bool:
        """Whether the canary took the adapter back."""
        return self.canary is not None and self.canary.state == "rolled back"

    @property
    def acts(self) -> bool:
        """Whether the adapter acts in the end, rather than the base."""
        return bool(self.adapter) and self.accepted and not self.rolled_back

    @property
    def fate(self) -> str:
        """What became of the adapter, in words."""
        if not self.adapter:
            return "no update"
        if not self.accepted:
            return "refused by the gate"
        return self.canary.state if self.canary is not None else "accepted"


@dataclass(frozen=True)
class Stage:
    """A recipe's practices at one point of the way, where every adapter that was refused before it is its base.

    mean, worst: success at the practised task, 0 to 1. below_base: share of practices below the base's success on the
    same resets. others_mean, others_worst: change of success at the other tasks; None where there is none. strain: mean
    change of the events of a trial that are hard on the arm.
    """

    mean: float
    standard_error: float | None
    worst: float
    below_base: float
    others_mean: float | None
    others_worst: float | None
    strain: float


@dataclass(frozen=True)
class RecipeRow:
    """One recipe of the table.

    practised: every adapter acts. gated: those that the gate let through. acting: those that the canary left, too.
    change: of acting success against the first recipe's, over practices from equal frames and seeds.
    bad: adapters whose real success is below the base's; of these gate_caught, canary_caught, and caught_by_neither.
    good: the others; refused_good by the gate; rolled_back_good by the canary, false_rollbacks of them although no
    other task fell and the arm did not suffer, beyond two standard errors on the same resets.
    canaries: adapters that had canary trials; undecided: of these, without a verdict. pairs_to_decide: median over all
    of them, where an undecided one takes longer than any; None where that is the median.
    frames, canary_trials: station episodes used, all practices together. seconds, updates: means.
    """

    recipe: str
    practices: int
    adapters: int
    base: float
    base_error: float
    practised: Stage
    gated: Stage
    acting: Stage
    change: float | None
    change_error: float | None
    imagined: float | None
    updates: float
    seconds: float
    frames: int
    canary_trials: int
    bad: int
    gate_caught: int
    canary_caught: int
    caught_by_neither: int
    good: int
    refused_good: int
    rolled_back_good: int
    false_rollbacks: int
    canaries: int
    undecided: int
    pairs_to_decide: float | None


@dataclass(frozen=True)
class TransferResult:
    """Written to result.json. bases: trials of the base policies by name and task. planned: practices in all.

    failed: practices that ended with an error, and with which; they are tried again when the benchmark goes on.
    """

    station: str
    task: str
    split: str
    resets: int
    temperature: float
    planned: int
    rows: tuple[RecipeRow, ...]
    practices: tuple[PracticeRecord, ...]
    bases: dict[str, dict[str, Trials]]
    failed: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether every practice is done."""
        return len(self.practices) == self.planned


Bases = Mapping[str, Mapping[str, Trials]]
"""Trials of the base policies, by their names and by task."""


def tabulate(task: str, practices: Sequence[PracticeRecord], bases: Bases) -> tuple[RecipeRow, ...]:
    """A row for each recipe that has a practice, in the order in which recipes come up.

    Raises: KeyError when a base's trials are missing; ValueError when trials are not of the same resets.
    """
    recipes = list(dict.fromkeys(one.recipe for one in practices))
    by_recipe = {name: [one for one in practices if one.recipe == name] for name in recipes}
    return tuple(_row(task, by_recipe[name], bases, by_recipe[recipes[0]]) for name in recipes)


def _row(task: str, practices: Sequence[PracticeRecord], bases: Bases, first: Sequence[PracticeRecord]) -> RecipeRow:
    adapted = [one for one in practices if one.adapter]
    bad = [one for one in adapted if is_bad(one, task, bases)]
    good = [one for one in adapted if not is_bad(one, task, bases)]
    canaries = [one.canary for one in adapted if one.canary is not None]
    taken_back = [one for one in good if one.rolled_back]
    pairs = [one.pairs + one.void if one.verdict != "undecided" else np.inf for one in canaries]
    median = float(np.median(pairs)) if pairs else np.inf
    base = bases[practices[0].base][task].rate
    change = _change(task, practices, first, bases)
    imagined = [one.imagined_after for one in adapted if one.imagined_after is not None]
    return RecipeRow(
        recipe=practices[0].recipe,
        practices=len(practices),
        adapters=len(adapted),
        base=base.mean,
        base_error=base.standard_error,
        practised=_stage(task, practices, bases, [bool(one.adapter) for one in practices]),
        gated=_stage(task, practices, bases, [bool(one.adapter) and one.accepted for one in practices]),
        acting=_stage(task, practices, bases, [one.acts for one in practices]),
        change=change.mean if change.n else None,
        change_error=change.standard_error if change.n > 1 else None,
        imagined=float(np.mean(imagined)) if imagined else None,
        updates=float(np.mean([one.updates for one in practices])),
        seconds=float(np.mean([one.seconds for one in practices])),
        frames=sum(one.frames for one in practices),
        canary_trials=sum(one.trials for one in canaries),
        bad=len(bad),
        gate_caught=sum(not one.accepted for one in bad),
        canary_caught=sum(one.rolled_back for one in bad),
        caught_by_neither=sum(one.acts for one in bad),
        good=len(good),
        refused_good=sum(not one.accepted for one in good),
        rolled_back_good=len(taken_back),
        false_rollbacks=sum(not harms(one, task, bases) for one in taken_back),
        canaries=len(canaries),
        undecided=sum(one.verdict == "undecided" for one in canaries),
        pairs_to_decide=median if np.isfinite(median) else None,
    )


def is_bad(practice: PracticeRecord, task: str, bases: Bases) -> bool:
    """Whether an adapter's real success at the practised task is below its base's, on the same resets."""
    return practice.trials[task].rate.mean < bases[practice.base][task].rate.mean


def harms(practice: PracticeRecord, task: str, bases: Bases) -> bool:
    """Whether another task falls, or the arm suffers more, beyond two standard errors of the paired difference."""
    base = bases[practice.base]
    strain = paired_difference(base[task].strain, practice.trials[task].strain)
    if strain.n and strain.mean > max(STANDARD_ERRORS * np.nan_to_num(strain.standard_error), 1e-9):
        return True
    falls = [
        paired_difference(base[other].successes, practice.trials[other].successes) for other in base if other != task
    ]
    return any(fall.mean < -max(STANDARD_ERRORS * np.nan_to_num(fall.standard_error), 1e-9) for fall in falls)


def _stage(task: str, practices: Sequence[PracticeRecord], bases: Bases, adapted: Sequence[bool]) -> Stage:
    """adapted: of each practice, whether its adapter acts."""
    success, below, others, strain = [], [], [], []
    for practice, acts in zip(practices, adapted):
        base = bases[practice.base]
        trials = practice.trials if acts else base
        success.append(trials[task].rate.mean)
        below.append(success[-1] < base[task].rate.mean)
        others += [trials[other].rate.mean - base[other].rate.mean for other in base if other != task]
        rise = paired_difference(base[task].strain, trials[task].strain)
        strain.append(rise.mean if rise.n else 0.0)
    many = len(success) > 1
    return Stage(
        mean=float(np.mean(success)),
        standard_error=float(np.std(success, ddof=1) / len(success) ** 0.5) if many else None,
        worst=min(success),
        below_base=float(np.mean(below)),
        others_mean=float(np.mean(others)) if others else None,
        others_worst=min(others) if others else None,
        strain=float(np.mean(strain)),
    )


def _change(task: str, practices: Sequence[PracticeRecord], first: Sequence[PracticeRecord], bases: Bases) -> Estimate:
    """Of acting success against the first recipe's, paired by frames and seed."""
    mine, theirs = (
        {(one.frame_seed, one.seed): acting_success(one, task, bases) for one in some} for some in (practices, first)
    )
    both = [key for key in mine if key in theirs]
    return paired_difference([theirs[key] for key in both], [mine[key] for key in both])


def acting_success(practice: PracticeRecord, task: str, bases: Bases) -> float:
    """Success of what acts in the end, the adapter or the base, 0 to 1."""
    trials = practice.trials if practice.acts else bases[practice.base]
    return trials[task].rate.mean

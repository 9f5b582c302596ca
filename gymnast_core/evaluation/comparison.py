"""Policies compared on the same resets: a plan that interleaves them, and what the trials say of each and of each pair.

Each round resets every task once for each policy, from the same seed, in an order that the comparison's seed draws.
What changes in the room over a night meets all policies alike. Differences are taken between trials of one reset,
which are known better than either success rate. The first policy is the reference. The anytime-valid test of canary
trials (`sequential_test`) says of each other policy whether it is better or worse, and may end the comparison.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gymnast_core.errors import CheckpointError, DataError
from gymnast_core.estimates import paired_difference, paired_interval, success_rate, wilson_interval
from gymnast_core.evaluation.session import TRIALS_LOG, PlannedTrial, TrialRecord, read_records
from gymnast_core.files import finite_or_none, write_json
from gymnast_core.results import read_record
from gymnast_core.robot.strain import ArmStrain, total
from gymnast_core.seeds import derive_seed
from gymnast_core.sequential_test import PairedTest, Verdict

PLAN = "plan.json"
SEEDS = 2**31
"""Seeds of resets lie below this: they travel as 32 bits."""
MOST_EVIDENCE = 1e99
"""What is beyond it is no clearer, and JSON has no infinity."""
CLEAR = "clear"
"""How the reason begins by which the test itself ends a comparison."""


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared. trials: resets of each task in one repeat. repeats: how often that is done, from further
    resets, for standard errors over repeats. seed: decides resets and order. alpha: the largest probability that any of
    the tests against the first policy, over all tasks, is wrong."""

    policies: tuple[str, ...]
    tasks: tuple[str, ...]
    trials: int
    repeats: int = 1
    seed: int = 0
    alpha: float = 0.05

    def trials_in_order(self) -> list[PlannedTrial]:
        """Round by round, task by task, the policies in an order of their own each time."""
        planned = []
        for number in range(self.trials * self.repeats):
            for task in self.tasks:
                reset = derive_seed(self.seed, "comparison", task, number) % SEEDS
                drawn = np.random.default_rng(derive_seed(self.seed, "order", task, number))
                planned += [
                    PlannedTrial(task, reset, self.policies[one]) for one in drawn.permutation(len(self.policies))
                ]
        return planned

    @property
    def alpha_of_one(self) -> float:
        """Of one of the tests, so that all of them together keep `alpha`."""
        return self.alpha / max(1, len(self.policies) - 1)


@dataclass(frozen=True)
class Tried:
    """A trial that was done, with the policy as it was planned (`record.policy` may name the adapter that practice
    made) and its repeat."""

    policy: str
    record: TrialRecord
    repeat: int = 0


@dataclass(frozen=True)
class PolicyRate:
    """What trials say of one policy at one task; task "" is all of them.

    trials: those that count; uncounted: those that a fault stopped or nobody could judge. rate: of success, None where
    no trial counts, with its standard error and its 95 % interval (Wilson). repeat_error: the standard error of the
    rate over repeats, None below two. steps: mean of the trials that count. strain: what all of them cost the arm.
    """

    policy: str
    task: str
    trials: int
    uncounted: int
    successes: int
    rate: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    repeat_error: float | None = None
    steps: float | None = None
    strain: ArmStrain = field(default_factory=ArmStrain)

    def __str__(self) -> str:
        left_out = f", {self.uncounted} not counted" if self.uncounted else ""
        shown = "not measured" if self.rate is None else f"{self.rate:.2f}{in_brackets(self.interval, '')}"
        repeats = "" if self.repeat_error is None else f", ± {self.repeat_error:.2f} over repeats"
        where = self.task or "all tasks"
        return f"{self.policy}, {where}: {shown}, {self.successes} of {self.trials}{left_out}{repeats}"


@dataclass(frozen=True)
class PolicyGap:
    """How a policy differs from the reference on the same resets; task "" is all of them.

    pairs: resets from which both trials count; void: the others. wins, losses: resets that only this policy, or only
    the reference, succeeded from. mean: difference of success, with its standard error and its 95 % interval. verdict:
    by the anytime-valid test, with the evidence for either side; it is reached at 1 / alpha.
    """

    policy: str
    reference: str
    task: str
    pairs: int
    void: int
    wins: int
    losses: int
    mean: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    evidence_better: float
    evidence_worse: float
    alpha: float

    def __str__(self) -> str:
        where = f" at {self.task}" if self.task else ""
        if self.mean is None:
            return f"{self.policy} against {self.reference}{where}: no pair of trials yet"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        return (
            f"{self.policy} against {self.reference}{where}: {self.mean:+.2f}{error}{in_brackets(self.interval)} over "
            f"{self.pairs} resets ({self.wins} won, {self.losses} lost), {self.verdict}"
        )


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison found, written to result.json. success: all of its trials were done, or the test ended them.

    planned, done: trials. stopped_by: why it ended before its plan did. weights: of each policy, as `Conditions`.
    """

    success: bool
    message: str
    station: str
    policies: tuple[str, ...]
    tasks: tuple[str, ...]
    planned: int
    done: int
    stopped_by: str
    rates: tuple[PolicyRate, ...]
    gaps: tuple[PolicyGap, ...]
    run_folder: str
    weights: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: each policy at each task, then each difference."""
        return [self.message, *map(str, self.rates), *map(str, self.gaps)]


def tried_of(plan: ComparisonPlan, records: Sequence[TrialRecord]) -> list[Tried]:
    """The records with their policies as planned."""
    per_repeat = plan.trials * len(plan.tasks) * len(plan.policies)
    planned = plan.trials_in_order()
    return [Tried(planned[k].policy, record, k // per_repeat) for k, record in enumerate(records)]


def keep_plan(run: Path, plan: ComparisonPlan) -> None:
    """Write plan.json beside the trials. Raises: DataError when it cannot be written."""
    write_json(run / PLAN, dataclasses.asdict(plan))


def read_tried(run: Path) -> list[Tried]:
    """The trials on record in a folder; those of `gymnast trials` with their policies as planned.

    Raises: DataError when there are none, or a file is damaged.
    """
    records = read_records(run)
    if not records:
        raise DataError(f"{run}: holds no trials (no {TRIALS_LOG}); name a run folder of `gymnast trials`")
    if not (run / PLAN).exists():
        return [Tried(record.policy, record) for record in records]
    try:
        return tried_of(read_record(ComparisonPlan, run / PLAN), records)
    except CheckpointError as error:
        raise DataError(str(error)) from error


def rate_of(policy: str, task: str, tried: Iterable[Tried]) -> PolicyRate:
    """The success rate of one policy at one task ("": at all)."""
    own = [one for one in tried if one.policy == policy and task in ("", one.record.task)]
    values = [one.record.value for one in own]
    counted = [one for one in own if math.isfinite(one.record.value)]
    estimate = success_rate(values)
    by_repeat = [
        np.mean([one.record.value for one in counted if one.repeat == number])
        for number in sorted({one.repeat for one in counted})
    ]
    return PolicyRate(
        policy=policy,
        task=task,
        trials=len(counted),
        uncounted=len(own) - len(counted),
        successes=int(sum(one.record.value for one in counted)),
        rate=finite_or_none(estimate.mean),
        standard_error=finite_or_none(estimate.standard_error),
        interval=wilson_interval(values),
        repeat_error=float(np.std(by_repeat, ddof=1) / math.sqrt(len(by_repeat))) if len(by_repeat) > 1 else None,
        steps=float(np.mean([one.record.steps for one in counted])) if counted else None,
        strain=total(one.record.strain for one in own),
    )


def outcomes_by_reset(policy: str, task: str, tried: Iterable[Tried]) -> dict[tuple[str, int], float]:
    """A policy's outcome (1, 0, or NaN for one that does not count) from each reset, by task and seed, in order."""
    return {
        (one.record.task, one.record.seed): one.record.value
        for one in tried
        if one.policy == policy and task in ("", one.record.task)
    }


def gap_between(reference: str, policy: str, task: str, alpha: float, tried: Sequence[Tried]) -> PolicyGap:
    """How `policy` differs from `reference` on the resets that both were tried from."""
    before, after = (outcomes_by_reset(name, task, tried) for name in (reference, policy))
    resets = [reset for reset in before if reset in after]
    one, other = [before[reset] for reset in resets], [after[reset] for reset in resets]
    test = PairedTest.of(alpha, zip(one, other))
    difference = paired_difference(one, other)
    return PolicyGap(
        policy=policy,
        reference=reference,
        task=task,
        pairs=test.pairs,
        void=test.void,
        wins=test.wins,
        losses=test.losses,
        mean=finite_or_none(difference.mean),
        standard_error=finite_or_none(difference.standard_error),
        interval=paired_interval(one, other),
        verdict=test.verdict,
        evidence_better=min(test.evidence_better, MOST_EVIDENCE),
        evidence_worse=min(test.evidence_worse, MOST_EVIDENCE),
        alpha=alpha,
    )


def gaps_of(plan: ComparisonPlan, tried: Sequence[Tried], task: str = "") -> list[PolicyGap]:
    """Each further policy against the first."""
    reference, *others = plan.policies
    return [gap_between(reference, policy, task, plan.alpha_of_one, tried) for policy in others]


def is_clear(plan: ComparisonPlan, tried: Sequence[Tried]) -> str:
    """Why no further trial is needed, in words; empty as long as one is. A plan of one policy is never clear."""
    gaps = gaps_of(plan, tried)
    if not gaps or any(gap.verdict == "undecided" for gap in gaps):
        return ""
    return f"{CLEAR}: " + ", ".join(f"{gap.policy} is {gap.verdict}" for gap in gaps) + f" than {plan.policies[0]}"


def compare(
    plan: ComparisonPlan,
    tried: Sequence[Tried],
    station: str,
    run: str,
    stopped_by: str = "",
    weights: dict[str, str] | None = None,
) -> ComparisonResult:
    """All figures of a comparison. stopped_by: why the trials ended before their plan did, or what broke them off."""
    planned = len(plan.policies) * len(plan.tasks) * plan.trials * plan.repeats
    tasks = ("", *plan.tasks) if len(plan.tasks) > 1 else plan.tasks
    return ComparisonResult(
        success=len(tried) >= planned or stopped_by.startswith(CLEAR),
        message=stopped_by or f"{len(tried)} of {planned} trials",
        station=station,
        policies=plan.policies,
        tasks=plan.tasks,
        planned=planned,
        done=len(tried),
        stopped_by=stopped_by,
        rates=tuple(rate_of(policy, task, tried) for task in tasks for policy in plan.policies),
        gaps=tuple(gap for task in tasks for gap in gaps_of(plan, tried, task)),
        run_folder=run,
        weights=weights or {},
    )


def in_brackets(interval: tuple[float, float] | None, sign: str = "+") -> str:
    """An interval for people, with a blank in front; nothing for none."""
    return "" if interval is None else f" [{interval[0]:{sign}.2f}, {interval[1]:{sign}.2f}]"

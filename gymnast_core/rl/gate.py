"""The gate of test-time training: an adapter is let through only when every condition holds.

What must hold: success in imagination rises; no other task of the station falls; the safety envelope is not met more
often; and imagination from these start frames deserves trust, which the world model's measured figures and the frames'
familiarity say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.estimates import paired_difference
from gymnast_core.rl.adapt_result import MIN_PAIRS, STANDARD_ERRORS, OtherTask
from gymnast_core.rollout.rollout import Rollout


@dataclass(frozen=True)
class GateResult:
    """Success in imagination before and after, 0 to 1; difference and its standard error over pairs of equal seeds;
    share of imagined actions that the safety envelope changed; the conditions that failed, in words; what became of
    the other tasks."""

    success_before: float
    success_after: float
    difference: float
    standard_error: float
    pairs: int
    safety_before: float
    safety_after: float
    failed_conditions: tuple[str, ...]
    others: tuple[OtherTask, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.failed_conditions


def unmeasured(*conditions: str) -> GateResult:
    """What is known where nothing was imagined, because these conditions failed before."""
    nothing = math.nan
    return GateResult(nothing, nothing, nothing, nothing, 0, 0.0, 0.0, conditions)


def no_room_to_rise(before: Sequence[Rollout]) -> str:
    """Why no adapter could pass the gate, not even one that always succeeds, in words; empty where one could."""
    outcomes = np.array([rollout.completed for rollout in before])
    outcomes = outcomes[np.isfinite(outcomes)]
    if len(outcomes) < MIN_PAIRS:
        return f"only {len(outcomes)} of {len(before)} imagined rollouts could be judged, needed {MIN_PAIRS}"
    if paired_difference(outcomes, np.ones(len(outcomes))).is_above_zero(STANDARD_ERRORS):
        return ""
    return (
        f"{int(outcomes.sum())} of {len(outcomes)} imagined rollouts of the base succeed already: no rise could be two "
        "standard errors; take a frame in which the task is not done yet, a harder one, or more evaluation_rollouts"
    )


def judge_adapter(
    before: Sequence[Rollout],
    after: Sequence[Rollout],
    distrust: Sequence[str] = (),
    others: Sequence[OtherTask] = (),
) -> GateResult:
    """Compare rollouts of the base and of the adapted policy from the same starts with the same seeds.

    An adapter passes when success rises by two standard errors of the paired difference, when its actions do not meet
    the safety envelope more often than the base's (beyond two standard errors of that paired difference), when none of
    the other tasks falls, and when there is no reason to distrust imagination (`distrust`: conditions that failed
    already).
    """
    first = np.array([rollout.completed for rollout in before])
    second = np.array([rollout.completed for rollout in after])
    rise = paired_difference(first, second)
    shares_before = np.array([rollout.changed_share for rollout in before])
    shares_after = np.array([rollout.changed_share for rollout in after])
    meetings = paired_difference(shares_before, shares_after)
    failed = []
    if rise.n < MIN_PAIRS:
        failed.append(f"only {rise.n} of {len(before)} pairs of rollouts could be judged, needed {MIN_PAIRS}")
    elif not rise.is_above_zero(STANDARD_ERRORS):
        failed.append(
            f"success in imagination changed by {rise.mean:+.3f}, needed a rise of at least "
            f"{STANDARD_ERRORS * rise.standard_error:.3f} (two standard errors)"
        )
    if meetings.n and meetings.mean > max(STANDARD_ERRORS * np.nan_to_num(meetings.standard_error), 1e-9):
        failed.append(
            f"the safety envelope changed {shares_after.mean():.1%} of the adapted policy's actions, "
            f"{shares_before.mean():.1%} of the base's"
        )
    failed += [f"another task falls: {other.describe()}" for other in others if other.fell]
    return GateResult(
        success_before=float(np.nanmean(first)) if np.isfinite(first).any() else math.nan,
        success_after=float(np.nanmean(second)) if np.isfinite(second).any() else math.nan,
        difference=rise.mean,
        standard_error=rise.standard_error,
        pairs=rise.n,
        safety_before=float(shares_before.mean()) if len(before) else 0.0,
        safety_after=float(shares_after.mean()) if len(after) else 0.0,
        failed_conditions=(*failed, *distrust),
        others=tuple(others),
    )

"""Checks of an episode's numbers: times, measured states, and actions that are possible and come to motion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gymnast_core.config import REACH
from gymnast_core.data.episode import Episode
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import DataError
from gymnast_core.evaluation.findings import (
    COMMANDED_M,
    FROZEN_STEPS,
    GRIPPER_RANGE,
    JUMP_S,
    JUMP_TIMES,
    STATE_JUMP_M,
    STILL_M,
    STILL_STEPS,
    Problem,
    spans,
)

Facts = Sequence[Mapping[str, Any]]


def check_stamps(episode: Episode, facts: Facts) -> Iterator[Problem]:
    """Times rise, without a jump that neither a hold nor a policy that thought explains. All equal: nobody measured.

    A picture that a slow camera gave twice has one time twice, which is no fault of the clock.
    """
    gaps = np.diff(episode.stamps.astype(np.float64)) / 1e9
    if not gaps.any():
        return
    for first, last in [
        *spans(gaps < 0),
        *(span for span in spans(gaps == 0) if span[1] - span[0] + 1 >= FROZEN_STEPS),
    ]:
        yield Problem("stamps_backwards", f"{gaps[first]:.3f} s to the next frame", first, last)
    usual = float(np.percentile(gaps, 90, method="lower"))
    thought = np.array([_latency(facts, step) for step in range(len(gaps))])
    held = np.array([_held(facts, step) for step in range(len(gaps))])
    allowed = max(JUMP_S, JUMP_TIMES * usual) + np.maximum(thought, np.append(thought[1:], 0.0))
    for first, last in spans((gaps > allowed) & ~held):
        longest = float(gaps[first : last + 1].max())
        yield Problem("stamps_jump", f"{longest:.2f} s between frames, usual are {usual:.2f} s", first, last)


def check_states(episode: Episode) -> Iterator[Problem]:
    """Measured states lie within the arm's reach and do not leap."""
    states = episode.states
    low, high = GRIPPER_RANGE
    with np.errstate(invalid="ignore"):
        beyond = (np.abs(states[:, :3]) > REACH).any(axis=1) | (states[:, 6] < low) | (states[:, 6] > high)
    for first, last in spans(beyond):
        x, y, z, gripper = (float(states[first, column]) for column in (0, 1, 2, 6))
        yield Problem("state_impossible", f"x {x:.3g}, y {y:.3g}, z {z:.3g}, gripper {gripper:.3g}", first, last)
    moved = _moved(states)
    gaps = np.diff(episode.stamps.astype(np.float64)) / 1e9
    leaps = (moved > STATE_JUMP_M) & (gaps <= 1.0) & ~beyond[1:] & ~beyond[:-1]
    for first, last in spans(leaps):
        yield Problem("state_jump", f"{moved[first]:.3f} m in {max(gaps[first], 0):.2f} s", first, last)


def check_actions(episode: Episode, facts: Facts) -> Iterator[Problem]:
    """Actions are possible, were answered, and came to motion."""
    try:
        check_bridge(episode.executed, "executed")  # what a policy asked for beyond that, the safety envelope cut
    except DataError as error:
        yield Problem("actions_impossible", str(error))
        return
    if episode.answered < episode.length - 1:  # an episode that was cancelled may end before the answer
        yield Problem("arm_silent", "no answer of the arm", episode.answered, episode.length - 1)
    sent = np.linalg.norm(np.nan_to_num(episode.executed[:, :3]), axis=1)
    held = np.array([_held(facts, step) for step in range(episode.length)], dtype=bool)
    commanded = (sent > COMMANDED_M) & ~held
    for first, last in spans(_moved(episode.states) < STILL_M):
        count = int(commanded[first : last + 1].sum())
        if count >= STILL_STEPS:
            found = f"{sent[first : last + 1].sum():.3f} m commanded in {count} steps and not made"
            yield Problem("no_motion", found, first, last)


def _moved(states: np.ndarray) -> np.ndarray:
    """(T,) metres between measured states (T + 1, 7); NaN where not measured."""
    return np.asarray(np.linalg.norm(np.diff(states[:, :3].astype(np.float64), axis=0), axis=1))


def _latency(facts: Facts, step: int) -> float:
    """Seconds that the policy thought before a step, where that was logged."""
    value = facts[step].get("policy_latency") if step < len(facts) else None
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 3600 else 0.0


def _held(facts: Facts, step: int) -> bool:
    """Whether the arm was held before the next action."""
    return step < len(facts) and bool(facts[step].get("holds"))

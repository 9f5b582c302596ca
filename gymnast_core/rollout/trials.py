"""Trials: a policy on a station from reset to reset, each ended by success or by its steps, logged where wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.outcome import BY_STATION
from gymnast_core.protocols import Environment, MeasuredEnvironment, Policy, SeededPolicy, Start
from gymnast_core.robot.strain import StepStrain
from gymnast_core.rollout.ending import Ending
from gymnast_core.rollout.rollout import Rollout, RolloutOptions, roll_out
from gymnast_core.seeds import derive_seed

STEP_NS = 200_000_000
"""Between two logged frames of an environment without a clock of its own."""
SHOWN_FRAMES = 8


@dataclass(frozen=True)
class TrialLog:
    """Where trials are logged. folder: of a trial, named by its number. facts: metadata of every episode."""

    folder: Callable[[int, Start], Path]
    facts: dict[str, Any] = field(default_factory=dict)
    successes_only: bool = False


@dataclass(frozen=True)
class Trial:
    """One trial: its start, whether it had succeeded at its end, its steps, what each of them cost the arm, and frames
    (n, H, W, 3) of it.

    kept: whether it was logged.
    """

    start: Start
    success: bool
    steps: int
    strain: tuple[StepStrain, ...]
    frames: np.ndarray
    kept: bool = False


def run_trials(
    policy: Policy,
    environment: Environment,
    starts: Sequence[Start],
    max_steps: int,
    temperature: float = 0.0,
    log: TrialLog | None = None,
    tick: Callable[[int], None] | None = None,
    after_success: int = 0,
    ending: Ending = "truth",
) -> list[Trial]:
    """One trial for each start, ended by success (and `after_success` further steps) or after `max_steps`.

    temperature: of sampling; 0 acts greedily. A trial's seed decides its reset and whatever is sampled.
    tick: called with the count of trials finished.
    ending: see `rollout.ending.Ending`.

    Raises: DataError when the policy cannot sample and is asked to, or gives actions that are not finite.
    """
    options = RolloutOptions(
        max_steps,
        temperature or None,
        stop_at_success=ending != "nothing",
        watch=None if isinstance(ending, str) else ending,
        after_success=after_success,
        keep_frames=False,
    )
    size = 1 if isinstance(policy, SeededPolicy) else max(1, environment.max_rollouts)
    trials: list[Trial] = []
    for first in range(0, len(starts), size):
        batch = list(starts[first : first + size])
        seeds = [derive_seed(start.seed, "policy") for start in batch]
        rollouts = roll_out(policy, environment, batch, seeds, options)
        trials += _finish(environment, rollouts, len(trials), log)
        if tick is not None:
            tick(len(trials))
    return trials


def _finish(environment: Environment, rollouts: Sequence[Rollout], number: int, log: TrialLog | None) -> list[Trial]:
    """The batch's trials, written where they are logged; `number`: of the first."""
    count = max(rollout.steps for rollout in rollouts) + 1
    spread = _spread(count, SHOWN_FRAMES)
    indices = list(range(count)) if log is not None else sorted({*spread, *(rollout.steps for rollout in rollouts)})
    video = environment.video(indices)
    measured = environment if isinstance(environment, MeasuredEnvironment) else None
    states = measured.states() if measured is not None and log is not None else None
    facts = measured.facts() if measured is not None and log is not None else None
    trials = []
    for row, rollout in enumerate(rollouts):
        shown = video[row][[place for place, index in enumerate(indices) if index <= rollout.steps]]
        success = rollout.success >= 1.0
        kept = log is not None and (success or not log.successes_only)
        trials.append(Trial(rollout.start, success, rollout.steps, tuple(rollout.strain), shown, kept))
        if log is not None and kept:
            own = {**log.facts, **(_cut(facts[row], rollout.steps) if facts is not None else {})}
            _write(
                log.folder(number + row, rollout.start),
                rollout,
                shown,
                states[row] if states is not None else None,
                own,
            )
    return trials


def _cut(facts: dict[str, Any], steps: int) -> dict[str, Any]:
    """Facts by frame end where the trial ends."""
    return {name: value[: steps + 1] if isinstance(value, list) else value for name, value in facts.items()}


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` indices evenly from 0 to count - 1."""
    return sorted(set(np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()))


def _write(
    folder: Path, rollout: Rollout, frames: np.ndarray, states: np.ndarray | None, facts: dict[str, Any]
) -> None:
    metadata = {**facts, "task": rollout.start.task, "seed": rollout.start.seed, "source": "station"}
    strain = rollout.strain
    with EpisodeWriter(folder, rollout.start.instruction, metadata) as writer:
        for step in range(rollout.steps + 1):
            if step:
                done = bool(rollout.truth[step - 1] >= 1.0)
                cost = strain[step - 1]
                writer.add_step(
                    rollout.actions[step - 1],
                    rollout.executed[step - 1],
                    cost.events,
                    cost.holds if rollout.step_holds else None,
                    cost.load,
                    success=done,
                )
            state = states[step] if states is not None else None
            writer.add_observation(frames[step], state, step * STEP_NS)
        writer.finish(success=rollout.success >= 1.0, outcome_by=BY_STATION)

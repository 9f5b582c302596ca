"""A session of trials: reset, run, judge, repeat, on any station; resumable, with retries counted and reasons kept.

The evaluator node and runs without ROS use this one session; what differs is the `Bench` that does the work. A plan
says which policy runs from which reset, so one policy alone, a base against its adapter and any number of policies
interleaved are the same session.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gymnast_core.config import parse_config
from gymnast_core.data.outcome import ABORTED, BY_STATION, CANCELLED, FAILURE, OUTCOMES, SUCCESS, set_outcome
from gymnast_core.errors import ConfigError, DataError, StationError
from gymnast_core.estimates import success_rate
from gymnast_core.evaluation.resets import ResetReport
from gymnast_core.files import append_line, finite_or_none, read_json_lines
from gymnast_core.results import write_result
from gymnast_core.robot.strain import ArmStrain, StepStrain, count_events, total
from gymnast_core.seeds import derive_seed

TRIALS_LOG = "trials.jsonl"
EPISODE_ATTEMPTS = 2
MAX_ABORTED_IN_A_ROW = 3
"""After this many trials that a fault stopped, the rest is not tried."""

Tell = Callable[[str, Any], None]
"""(phase, a nested action's feedback or None)"""


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to come: the task, the seed that decides its reset, and the policy ("base", an adapter, "practise", or
    another one, see `policy.choice`)."""

    task: str
    seed: int
    policy: str = "base"


def trial_name(trial: PlannedTrial) -> str:
    """A name for a folder, as short as it is plain; what a policy's address or path holds beyond that is numbered."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", trial.policy)[-60:]
    more = "" if plain == trial.policy else f"_{derive_seed(trial.policy) % 2**32:08x}"
    return f"{trial.task}_{trial.seed}_{plain}{more}"


@dataclass(frozen=True)
class EpisodeOutcome:
    """What became of one episode. outcome: a number of `data.outcome`. events: safety events and holds, by name.
    strain: what it cost the arm. reset: of whoever resets and runs in one."""

    outcome: int
    steps: int = 0
    episode_path: str = ""
    judge_score: float | None = None
    message: str = ""
    events: dict[str, int] = field(default_factory=dict)
    strain: ArmStrain = field(default_factory=ArmStrain)
    reset: ResetReport = field(default_factory=ResetReport)

    def at_the_cost_of(self, steps: Sequence[StepStrain]) -> EpisodeOutcome:
        """The same with what its steps cost."""
        return replace(self, events=count_events(steps), strain=ArmStrain.of(steps))


@dataclass(frozen=True)
class TrialRecord:
    """One line of trials.jsonl. truth: the station's own word, None where it has none. attempts: episodes it took.
    events, strain: what it cost the arm, see `EpisodeOutcome`. reset: what all its resets took."""

    trial: int
    seed: int
    policy: str
    outcome: int
    truth: bool | None
    judge_score: float | None
    steps: int
    seconds: float
    episode_path: str
    message: str
    task: str = ""
    attempts: int = 1
    events: dict[str, int] = field(default_factory=dict)
    strain: ArmStrain = field(default_factory=ArmStrain)
    reset: ResetReport = field(default_factory=ResetReport)

    @property
    def value(self) -> float:
        """1 or 0, NaN where nobody could tell or a fault stopped it."""
        return float(self.outcome == SUCCESS) if self.outcome in (SUCCESS, FAILURE) else math.nan


@dataclass(frozen=True)
class TrialsResult:
    """Trials of one policy, written to result.json. outcomes: names, one for each trial. events, strain: what all
    trials cost the arm, see `EpisodeOutcome`."""

    success: bool
    message: str
    policy: str
    successes: int
    judged_successes: int
    abstentions: int
    outcomes: tuple[str, ...]
    episode_paths: tuple[str, ...]
    success_rate: float | None
    standard_error: float | None
    run_folder: str
    events: dict[str, int] = field(default_factory=dict)
    strain: ArmStrain = field(default_factory=ArmStrain)


class Bench(Protocol):
    """What a session needs of a station. Every method may raise StationError; a cancel ends it by an exception."""

    def check(self, tasks: Sequence[str]) -> None:
        """See, before the arm moves, that whoever will judge trials of these tasks answers."""
        ...

    def reset(self, task: str, seed: int) -> ResetReport:
        """Arm and scene to the start of `task` that `seed` decides; what that took."""
        ...

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        """Adapt from the scene as it is; the adapter's name, or "base" where none was accepted."""
        ...

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One episode from the scene as it is. max_steps: 0 as the task says."""
        ...

    def truth(self, task: str) -> bool | None:
        """The station's own word on the task, None where it has none."""
        ...


class TrialSession:
    """Runs a plan on a bench and keeps every trial's record in `run`/trials.jsonl.

    A session that was cut short goes on: trials on record are not repeated. until: asked after every trial; a reason
    ends the session. tell: called with the trial's number, the phase and a nested feedback.

    Raises: DataError when the folder holds trials of another plan, or cannot be written.
    """

    def __init__(
        self,
        bench: Bench,
        plan: Sequence[PlannedTrial],
        run: Path,
        max_steps: int = 0,
        tell: Callable[[int, str, Any], None] = lambda trial, phase, nested: None,
        until: Callable[[Sequence[TrialRecord]], str] = lambda records: "",
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.bench = bench
        self.plan = tuple(plan)
        self.run_folder = run
        self.max_steps = max_steps
        self._tell, self.until, self._warn = tell, until, warn
        self.records = _recorded(run / TRIALS_LOG, self.plan)
        self.stopped_by = ""
        """Why the session ended before its plan did; empty where it did not."""

    def __call__(self) -> list[TrialRecord]:
        """The records of all trials.

        Raises: StationError when the judge does not answer, or faults stop one trial after the other.
        """
        if (left := self.plan[len(self.records) :]) and not self.stopped_by:
            self._tell(len(self.records), "check", None)
            self.bench.check(tuple(dict.fromkeys(trial.task for trial in left)))
        while len(self.records) < len(self.plan) and not self.stopped_by:
            number = len(self.records)
            record = self._one_trial(number, self.plan[number])
            self.records.append(record)
            append_line(self.run_folder / TRIALS_LOG, json.dumps(asdict(record)), durable=True)
            last = [one.outcome for one in self.records[-MAX_ABORTED_IN_A_ROW:]]
            if len(last) == MAX_ABORTED_IN_A_ROW and set(last) == {ABORTED}:
                raise StationError(f"{len(last)} trials in a row were stopped by a fault: {record.message}")
            self.stopped_by = self.until(self.records)
        return self.records

    def _one_trial(self, number: int, planned: PlannedTrial) -> TrialRecord:
        """Reset, (practise,) run, judge; tried again when a fault stops the episode."""

        def tell(phase: str, nested: Any = None) -> None:
            self._tell(number, phase, nested)

        began = time.monotonic()
        trial, attempt, reset = planned, 0, ResetReport()
        for attempt in range(1, EPISODE_ATTEMPTS + 1):
            tell("reset")
            reset = reset.then(self.bench.reset(trial.task, trial.seed))
            if trial.policy == "practise":
                adapter = self.bench.practise(trial.task, trial.seed, lambda _, nested: tell("adapt", nested))
                trial = PlannedTrial(trial.task, trial.seed, adapter)
            tell("run")
            episode = self.bench.run(trial, self.max_steps, lambda _, nested: tell("run", nested))
            reset = reset.then(episode.reset)
            if episode.outcome == CANCELLED:
                raise StationError(f"the episode was cancelled by someone else: {episode.message}")
            if episode.outcome != ABORTED:
                break
            self._warn(f"trial {number + 1}, attempt {attempt}: {episode.message}")
        tell("judge")
        truth = self.bench.truth(trial.task) if episode.outcome != ABORTED else None
        outcome = episode.outcome if truth is None else SUCCESS if truth else FAILURE
        if truth is not None and episode.episode_path:
            set_outcome(episode.episode_path, truth, {"outcome_by": BY_STATION, "outcome": OUTCOMES[outcome]})
        return TrialRecord(
            trial=number,
            seed=trial.seed,
            policy=trial.policy,
            outcome=outcome,
            truth=truth,
            judge_score=episode.judge_score,
            steps=episode.steps,
            seconds=round(time.monotonic() - began, 2),
            episode_path=episode.episode_path,
            message=episode.message,
            task=trial.task,
            attempts=attempt,
            events=episode.events,
            strain=episode.strain,
            reset=reset,
        )


def summarise(records: Sequence[TrialRecord], planned: int, run: Path, policy: str, message: str = "") -> TrialsResult:
    """The trials of one policy in figures, written to `run`/result.json. message: why they ended early, if they did."""
    values = [record.value for record in records]
    estimate = success_rate(values)
    aborted = [record for record in records if record.outcome == ABORTED]
    successes = sum(value == 1.0 for value in values)
    if not message and aborted:
        message = f"{len(aborted)} of {len(records)} trials were stopped by a fault: {aborted[-1].message}"
    events: Counter[str] = sum((Counter(record.events) for record in records), Counter())
    result = TrialsResult(
        success=len(records) == planned and not aborted,
        message=message or f"{successes} of {len(records)} succeeded",
        policy=policy,
        successes=successes,
        judged_successes=sum(record.judge_score is not None and record.judge_score >= 1.0 for record in records),
        abstentions=int(np.isnan(values).sum()),
        outcomes=tuple(OUTCOMES[record.outcome] for record in records),
        episode_paths=tuple(record.episode_path for record in records),
        success_rate=finite_or_none(estimate.mean),
        standard_error=finite_or_none(estimate.standard_error),
        run_folder=str(run),
        events=dict(events),
        strain=total(record.strain for record in records),
    )
    write_result(run, result)
    return result


def read_records(run: Path) -> list[TrialRecord]:
    """The trials on record in a folder. Raises: DataError naming a line that holds none."""
    path = run / TRIALS_LOG
    try:
        return [parse_config(TrialRecord, line, str(path)) for line in read_json_lines(path)]
    except ConfigError as error:
        raise DataError(str(error)) from error


def _recorded(path: Path, plan: Sequence[PlannedTrial]) -> list[TrialRecord]:
    """Trials of this plan that were done before. Raises: DataError where they are of another one."""
    records = read_records(path.parent)
    for record, planned in zip(records, plan):
        same_policy = planned.policy == "practise" or record.policy == planned.policy
        if (record.seed, record.task or planned.task) != (planned.seed, planned.task) or not same_policy:
            raise DataError(
                f"{path}: trial {record.trial} is of seed {record.seed} and policy {record.policy}, the plan has seed "
                f"{planned.seed} and policy {planned.policy}; choose another folder"
            )
    return records[: len(plan)]

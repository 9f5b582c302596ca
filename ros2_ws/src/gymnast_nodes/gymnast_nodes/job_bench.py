"""The station in the ROS graph as the bench of a queued job: each trial is one goal of the evaluator, of one trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gymnast_core.data.outcome import ABORTED, CANCELLED, OUTCOMES
from gymnast_core.errors import StationError
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell, TrialRecord, read_records
from gymnast_nodes.client import Station, Task

BUSY_S = 900.0
"""How long others' trials, and those that a killed runner left behind, are waited for."""
COME_BACK_S = 120.0
"""How long the graph may take to bring a node back that went down."""
POLL_S = 0.25


class StationJobBench:
    """`serve.job_run.JobBench` over `Station.run_trials`, which resets, runs and judges.

    policy: "base", an adapter's name, or an address that the executor opens. say: told when somebody else's trials are
    waited for.
    """

    def __init__(self, station: Station, policy: str, say: Callable[[str], None] = lambda text: None) -> None:
        self._station, self._policy, self._say = station, policy, say
        self._truth: bool | None = None
        self._busy = False

    def reset(self, task: str, seed: int) -> None:
        """Wait until the graph is there; the evaluator resets when the trial begins. Raises: StationError."""
        self._truth = None
        self._station.wait_until_active(COME_BACK_S)

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        """Raises: StationError: a job names its policy."""
        raise StationError("a queued job does not practise; name a policy or an adapter")

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One trial. A node that dies in it aborts it; Ctrl-C cancels it, and the arm holds.

        Raises: StationError when the evaluator refuses it, or cannot reset arm and scene.
        """
        task = self._begin(trial, max_steps)
        try:
            while not task.is_complete():
                tell(task.feedback.phase if task.feedback is not None else "run", task.feedback)
                time.sleep(POLL_S)
            result = task.result()
        except StationError as error:
            return EpisodeOutcome(ABORTED, message=str(error))
        except BaseException:
            task.cancel()
            raise
        if task.status == "canceled":
            return EpisodeOutcome(CANCELLED, message=result.message)
        if not len(result.outcomes):
            raise StationError(result.message)
        return self._outcome(result)

    def truth(self, task: str) -> bool | None:
        """The station's own word on the last trial, where its record is on this machine."""
        return self._truth

    def close(self) -> None:
        """Nothing is held."""

    def _begin(self, trial: PlannedTrial, max_steps: int) -> Task:
        """Start the trial as soon as the evaluator takes it. Raises: StationError."""
        end = time.monotonic() + BUSY_S
        while True:
            try:
                return self._station.run_trials(trial.task, 1, self._policy, trial.seed, max_steps)
            except StationError as error:
                if "refused the goal" not in str(error) or time.monotonic() > end:
                    raise
                if not self._busy:
                    self._say(f"waiting: {error}")
                self._busy = True
            time.sleep(1.0)

    def _outcome(self, result: Any) -> EpisodeOutcome:
        record = _record_of(result)
        if record is not None:
            self._truth = record.truth
            return EpisodeOutcome(
                record.outcome,
                record.steps,
                record.episode_path,
                record.judge_score,
                record.message,
                record.events,
                record.strain,
            )
        path = result.episode_paths[0] if len(result.episode_paths) else ""
        outcome_number = int(result.outcomes[0])
        return EpisodeOutcome(outcome_number, 0, path, message=result.message or OUTCOMES[outcome_number])


def _record_of(result: Any) -> TrialRecord | None:
    """The trial's record, where the evaluator runs on this machine."""
    records = read_records(Path(result.run_folder)) if result.run_folder and Path(result.run_folder).exists() else []
    return records[-1] if records else None

"""A running graph as a bench for trials, seen from outside: each trial is a goal of the evaluator.

The evaluator resets, runs and judges, and refuses a second goal meanwhile. Plan and records stay with the client, so
that trials go on where they were whichever process of either side was killed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gymnast_core.config import parse_config
from gymnast_core.data.outcome import ABORTED, CANCELLED
from gymnast_core.errors import DataError, StationError
from gymnast_core.evaluation.comparison import ComparisonResult
from gymnast_core.evaluation.resets import ResetReport
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell, TrialRecord, read_records
from gymnast_core.evaluation.trials import Trials
from gymnast_core.evaluation.trials_config import TrialsOptions
from gymnast_core.progress import say
from gymnast_core.results import read_result
from gymnast_core.robot.strain import ArmStrain
from gymnast_nodes.client import GoalNotTaken, Station, Task

PERSON = "person"
"""The phase of a trial in which the evaluator waits for somebody."""
POLL_S, ASK_AGAIN_S = 0.1, 1.0
COME_BACK_S = 120.0
"""How long the graph may take to bring a node back that went down."""


class GraphBench:
    """`evaluation.session.Bench` on a client of a graph. A cancel of the caller's (Ctrl-C) cancels the trial.

    came: asked, while the evaluator waits for a person, whether one has come; its first answer to a call is thrown
    away, since it may be of before. None: people answer the evaluator itself. busy_s: how long somebody else's trials
    are waited for.
    """

    def __init__(self, station: Station, came: Callable[[], bool] | None = None, busy_s: float = 0.0) -> None:
        self._station = station
        self._came = came
        self._busy_s = busy_s
        self._lost = False
        """Whether a node went down in the trial before: its successor's first answer may be lost."""
        self._heard: Any = None
        self._phase = ""
        self._truth: bool | None = None

    def check(self, tasks: Sequence[str]) -> None:
        """The evaluator asks its judge before the first trial."""

    def reset(self, task: str, seed: int) -> ResetReport:
        """Wait until the graph is there; the trial's goal brings arm and scene to their start. Raises: StationError."""
        self._truth = None
        self._station.wait_until_active(COME_BACK_S)
        return ResetReport()

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        """The evaluator practises as a part of the trial."""
        return "practise"

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One trial. A node that dies in it aborts it.

        Raises: StationError when the evaluator refuses it, or cannot reset arm and scene.
        """
        task = self._begin(trial, max_steps)
        try:
            while not task.is_complete():
                self._listen(task, trial, tell)
                if self._phase == PERSON and self._came is not None and self._came():
                    self._say_so()
                time.sleep(POLL_S)
            result = task.result()
        except StationError as error:
            self._lost = True
            return EpisodeOutcome(ABORTED, message=str(error))
        except BaseException:
            task.cancel()
            raise
        return self._outcome(task, result)

    def truth(self, task: str) -> bool | None:
        """What the evaluator was told by the station."""
        return self._truth

    def _begin(self, trial: PlannedTrial, max_steps: int) -> Task:
        """Start the trial as soon as the evaluator takes it. Raises: StationError."""
        self._heard, self._phase = None, ""
        patience = max(self._busy_s, COME_BACK_S) if self._lost else self._busy_s
        end, told = time.monotonic() + patience, False
        while True:
            try:
                task = self._station.run_trials(trial.task, 1, trial.policy, trial.seed, max_steps)
                self._lost = False
                return task
            except GoalNotTaken as error:
                if time.monotonic() >= end:
                    raise
                if not told:
                    say(f"waiting: {error}")
                told = True
            time.sleep(ASK_AGAIN_S)

    def _listen(self, task: Task, trial: PlannedTrial, tell: Tell) -> None:
        """Pass on what the evaluator has said since the last look."""
        heard = task.feedback
        if heard is None or heard is self._heard:
            return
        self._heard = heard
        if heard.phase == PERSON and self._phase != PERSON:
            answer = "call evaluator/scene_is_reset"
            if self._came is not None:
                self._came()
                answer = "press Enter"
            say(f"bring the scene to the start of '{trial.task}', step back, {answer} (why: the evaluator's log)")
        self._phase = heard.phase
        tell(heard.phase, heard)

    def _say_so(self) -> None:
        """A person has come. A call that has ended meanwhile needs no answer."""
        with contextlib.suppress(StationError):
            self._station.scene_is_reset()
        self._phase = ""

    def _outcome(self, task: Task, result: Any) -> EpisodeOutcome:
        if task.status == "canceled":
            return EpisodeOutcome(CANCELLED, message=result.message)
        if not len(result.outcomes):
            raise StationError(result.message)
        record = _record_in(result.run_folder)
        if record is None:  # the evaluator runs on another machine
            load = float(result.peak_load) if math.isfinite(result.peak_load) else None
            cost = ArmStrain(int(result.holds), int(result.refused), int(result.clipped), load)
            paths = list(result.episode_paths)
            return EpisodeOutcome(
                int(result.outcomes[0]), episode_path=paths[0] if paths else "", message=result.message, strain=cost
            )
        self._truth = record.truth
        return EpisodeOutcome(
            record.outcome,
            record.steps,
            record.episode_path,
            record.judge_score,
            record.message,
            record.events,
            record.strain,
            record.reset,
        )


def _record_in(folder: str) -> TrialRecord | None:
    """The evaluator's own record of the trial, where its folder is on this machine."""
    try:
        records = read_records(Path(folder)) if folder else []
    except DataError:
        return None
    return records[0] if records else None


def compare_on(station: Station, station_file: str, policies: Sequence[str], **options: Any) -> ComparisonResult:
    """See `Station.compare`."""
    asked = {"where": "graph", **options, "config": station_file, "policies": list(policies)}
    flow = Trials(parse_config(TrialsOptions, asked, "compare"))
    run = flow.begin()
    with flow.lend():
        flow(GraphBench(station))
    return read_result(ComparisonResult, run.path)

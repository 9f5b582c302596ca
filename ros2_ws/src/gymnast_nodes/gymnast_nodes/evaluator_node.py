"""The evaluator: trials with resets and judged outcomes, and the whole sequence of practising before acting.

evaluator/run_trials resets arm and scene, runs an episode through the executor, asks the station for the truth where
it has one, and repeats; evaluator/practise captures a test frame, adapts the policy in imagination, passes the gate,
executes and logs. Retries are counted, and nothing here moves the arm itself.

On a station without a reset service a person brings the scene to its start: the node says so, and waits for an answer
as long as it takes (`gymnast_nodes.person_call`). Every other wait has a limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.action import Practise, RunTrials

from gymnast_core.data.outcome import ABORTED, CANCELLED
from gymnast_core.errors import DataError, StationError
from gymnast_core.evaluation.comparison_page import write_page_of_one
from gymnast_core.evaluation.conditions import Conditions, keep_conditions
from gymnast_core.evaluation.session import PlannedTrial, TrialRecord, TrialSession, TrialsResult, summarise
from gymnast_core.files import user_path, write_bytes
from gymnast_core.station_file import StationFile
from gymnast_nodes.calls import Cancelled
from gymnast_nodes.lifecycle import Diagnostics, ManagedNode
from gymnast_nodes.long_action import Goal, LongAction
from gymnast_nodes.practise_goal import PractiseGoal, check_practise
from gymnast_nodes.ros_bench import RosBench, StationClients
from gymnast_nodes.running import run_node
from gymnast_nodes.verb_process import VerbProcess

MAX_TRIALS = 1000


class EvaluatorNode(ManagedNode):
    """See the module's text. Actions evaluator/run_trials and evaluator/practise."""

    def __init__(self) -> None:
        super().__init__("evaluator")
        self._root = user_path(self.station.recorder.folder, "recorder.folder").resolve().parent
        self._others = StationClients(self)
        self._phase = "idle"
        self._learner = VerbProcess("learning")
        self._practising: PractiseGoal | None = None
        self._trials = LongAction(self, RunTrials, "evaluator/run_trials", self._work_trials, self._refuse, _no_trials)
        self._practise = LongAction(
            self, Practise, "evaluator/practise", self._work_practise, self._refuse, _no_practice
        )
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("evaluation", self._report)

    def activate(self) -> None:
        self._trials.allow()
        self._practise.allow()

    def deactivate(self) -> None:
        self._trials.interrupt()
        self._practise.interrupt()

    def stop(self) -> None:
        self.deactivate()
        self._learner.kill()
        self._others.person.close()

    def _refuse(self, request: Any) -> str:
        if not self.is_active:
            return "the evaluator is not active"
        if self._trials.busy or self._practise.busy:
            return "trials or practice are under way; cancel them or wait"
        return ""

    # Trials

    def _work_trials(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        self.station.task(request.task)
        if not 1 <= request.trials <= MAX_TRIALS:
            raise DataError(f"trials: found {request.trials}, allowed are 1 to {MAX_TRIALS}")
        run = self._new_folder("trials", request.task)
        facts: dict[str, Any] = {
            "task": request.task,
            "trials": int(request.trials),
            "policy": request.policy or "base",
        }
        facts.update(first_seed=int(request.first_seed), max_steps=int(request.max_steps), station=self.station.name)
        write_bytes(run / "request.json", json.dumps(facts, indent=1).encode())
        keep_conditions(run, Conditions.now(StationFile(self.config_path, self.station), "graph", {}))
        message, status = "", "succeeded"
        feedback = RunTrials.Feedback(trials=request.trials)

        def tell(number: int, phase: str, nested: Any = None) -> None:
            self._phase = f"{phase}, trial {number + 1} of {request.trials}"
            feedback.trial, feedback.phase = number, phase
            feedback.successes = sum(record.value == 1.0 for record in session.records)
            feedback.step = int(getattr(nested, "step", 0))
            goal.publish_feedback(feedback)

        plan = [
            PlannedTrial(request.task, int(request.first_seed) + index, facts["policy"])
            for index in range(request.trials)
        ]
        bench = RosBench(self._others, goal, lambda phase: tell(len(session.records), phase))
        warn = self.get_logger().warning
        session = TrialSession(bench, plan, run, int(request.max_steps), tell, warn=warn)
        try:
            session()
        except Cancelled:
            message = f"cancelled in trial {len(session.records) + 1} of {request.trials}; the arm holds"
            status = "canceled"
        except (StationError, DataError) as error:
            message, status = f"trial {len(session.records) + 1} of {request.trials}: {error}", "aborted"
            self.get_logger().error(message)
        finally:
            self._phase = "idle"
        result = summarise(session.records, int(request.trials), run, facts["policy"], message)
        if request.trials > 1:  # one alone is a part of trials that have their page elsewhere
            self._write_page(run, facts, session.records, message)
        return status, _message_of(result, session.records)

    def _write_page(self, run: Path, facts: dict[str, Any], records: Sequence[TrialRecord], message: str) -> None:
        """The page of a set of trials; a set whose page cannot be written counts all the same."""
        of = facts["policy"], facts["task"], facts["trials"]
        try:
            self.get_logger().info(f"report: {write_page_of_one(run, self.station.name, *of, records, message)}")
        except DataError as error:
            self.get_logger().error(f"no page of these trials: {error}")

    # Practise

    def _work_practise(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        check_practise(request)  # before there is a folder of it
        if request.task:
            self.station.task(request.task)
        run = self._new_folder("practise", request.task or "free")
        self._practising = PractiseGoal(self, RosBench(self._others, goal), goal, run, self._learner)
        try:
            return "succeeded", self._practising()
        finally:
            self._practising = None

    def _new_folder(self, kind: str, name: str) -> Path:
        path = self._root / kind / f"{datetime.now():%Y%m%d_%H%M%S_%f}_{name}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be created: {error.strerror or error}; free disk space") from error
        return path

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        asked, practising = self._others.person.waiting_for, self._practising
        phase = practising.phase if practising is not None else self._phase
        return (DiagnosticStatus.WARN if asked else DiagnosticStatus.OK), asked or phase, {}


def _message_of(found: TrialsResult, records: Sequence[TrialRecord]) -> Any:
    """A session's result as the action's."""
    result = RunTrials.Result(run_folder=found.run_folder, success=found.success, message=found.message)
    result.successes, result.judged_successes = found.successes, found.judged_successes
    result.abstentions = found.abstentions
    result.outcomes = [record.outcome for record in records]
    result.episode_paths = list(found.episode_paths)
    result.success_rate = math.nan if found.success_rate is None else found.success_rate
    result.standard_error = math.nan if found.standard_error is None else found.standard_error
    strain = found.strain
    result.holds, result.refused, result.clipped = strain.holds, strain.refused, strain.clipped
    result.peak_load = math.nan if strain.peak_load is None else strain.peak_load
    return result


def _no_trials(message: str, cancelled: bool, request: RunTrials.Goal) -> Any:
    nothing = math.nan
    return RunTrials.Result(message=message, success_rate=nothing, standard_error=nothing, peak_load=nothing)


def _no_practice(message: str, cancelled: bool, request: Practise.Goal) -> Any:
    outcome = CANCELLED if cancelled else ABORTED
    nothing = math.nan
    return Practise.Result(
        message=message, outcome=outcome, success_before=nothing, success_after=nothing, standard_error=nothing
    )


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `evaluator`."""
    return run_node(EvaluatorNode, args)

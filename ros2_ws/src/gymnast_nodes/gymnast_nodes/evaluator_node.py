"""The evaluator: trials with resets and judged outcomes, and the whole sequence of practising before acting.

evaluator/run_trials resets arm and scene, runs an episode through the executor, asks the station for the truth where
it has one, and repeats; evaluator/practise captures a test frame, adapts the policy in imagination, passes the gate,
executes and logs. Every wait has a limit, retries are counted, and nothing here moves the arm itself.

On a station without a reset service a person brings the scene to its start: the node says so, and waits for the
service evaluator/scene_is_reset.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.action import Adapt, Practise, RunEpisode, RunTrials
from gymnast_msgs.srv import CaptureFrame, Rearm, ResetArm, ResetScene, SceneState
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from gymnast_core.config import TaskConfig
from gymnast_core.data.frames import write_bytes
from gymnast_core.data.outcome import set_outcome
from gymnast_core.errors import DataError, StationError
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.reporting.statistics import success_rate
from gymnast_core.station.scene import load_scene
from gymnast_nodes.common import Diagnostics, ManagedNode, check_seconds, parameter, run_node
from gymnast_nodes.liveness import Liveness
from gymnast_nodes.long_action import Cancelled, Goal, LongAction, call_service, measured_position, run_goal

MAX_TRIALS = 1000
RESET_ATTEMPTS = 3
EPISODE_ATTEMPTS = 2
MAX_ABORTED_IN_A_ROW = 3
"""After this many trials that a fault stopped, the rest is not tried."""
FAULT_LATCH = re.compile(r"\b\d+ faults\b")
"""How arm node and watchdog say that repeated faults, not a person, have latched the stop."""
SETTLE_S = 0.5
"""Between a reset and the first frame of what comes next: the camera must show the new scene."""

Episode = RunEpisode.Result
Feedback = Callable[[str, Any], None]
"""(phase, the nested action's feedback or None)"""


@dataclass(frozen=True)
class Trial:
    """One line of trials.jsonl."""

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


class EvaluatorNode(ManagedNode):
    """See the module's text. Actions evaluator/run_trials and evaluator/practise."""

    def __init__(self) -> None:
        super().__init__("evaluator")
        self._human_timeout = parameter(
            self, "human_timeout_s", 900.0, "how long a person may take to reset the scene, seconds", 1.0, 86400.0
        )
        self._root = Path(self.station.recorder.folder).expanduser().resolve().parent
        self._liveness = Liveness(self)
        self._reset_arm = self.create_client(ResetArm, "arm/reset")
        self._reset_scene = self.create_client(ResetScene, "station/reset_scene")
        self._scene_state = self.create_client(SceneState, "station/scene_state")
        simulation = self.station.simulation
        self._scene = load_scene(simulation.scene)[0] if simulation is not None else None
        self._capture = self.create_client(CaptureFrame, "camera/capture_frame")
        self._run_episode = ActionClient(self, RunEpisode, "executor/run_episode")
        self._adapt = ActionClient(self, Adapt, "adapter/adapt")
        self._rearm = self.create_client(Rearm, "arm/rearm")
        self._scene_is_reset = threading.Event()
        self._waiting_for_human = False
        self._human_service = self.create_service(Trigger, "evaluator/scene_is_reset", self._on_scene_is_reset)
        self._phase = "idle"
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

    def _refuse(self, request: Any) -> str:
        if not self.is_active:
            return "the evaluator is not active"
        if self._trials.busy or self._practise.busy:
            return "trials or practice are under way; cancel them or wait"
        return ""

    # Trials

    def _work_trials(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        task = self.station.task(request.task)
        if not 1 <= request.trials <= MAX_TRIALS:
            raise DataError(f"trials: found {request.trials}, allowed are 1 to {MAX_TRIALS}")
        run = self._new_folder("trials", request.task)
        facts = {"task": request.task, "trials": int(request.trials), "policy": request.policy or "base"}
        facts.update(first_seed=int(request.first_seed), max_steps=int(request.max_steps), station=self.station.name)
        write_bytes(run / "request.json", json.dumps(facts, indent=1).encode())
        trials: list[Trial] = []
        message, status = "", "succeeded"
        feedback = RunTrials.Feedback(trials=request.trials)

        def tell(phase: str, nested: Any = None) -> None:
            self._phase = f"{phase}, trial {feedback.trial + 1} of {request.trials}"
            feedback.phase = phase
            feedback.step = int(getattr(nested, "step", 0))
            goal.publish_feedback(feedback)

        try:
            for index in range(request.trials):
                feedback.trial = index
                feedback.successes = sum(_succeeded(trial) for trial in trials)
                trial = self._one_trial(goal, task, index, tell)
                trials.append(trial)
                with open(run / "trials.jsonl", "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(trial)) + "\n")
                last = [t.outcome for t in trials[-MAX_ABORTED_IN_A_ROW:]]
                if len(last) == MAX_ABORTED_IN_A_ROW and set(last) == {Episode.OUTCOME_ABORTED}:
                    raise StationError(f"{len(last)} trials in a row were stopped by a fault: {trial.message}")
        except Cancelled:
            message, status = f"cancelled in trial {len(trials) + 1} of {request.trials}; the arm holds", "canceled"
        except StationError as error:
            message, status = f"trial {len(trials) + 1} of {request.trials}: {error}", "aborted"
            self.get_logger().error(message)
        finally:
            self._phase = "idle"
        return status, self._summary(request, trials, message, run)

    def _one_trial(self, goal: Goal[Any], task: TaskConfig, index: int, tell: Feedback) -> Trial:
        """Reset, (adapt,) run, judge; tried again when a fault stops the episode."""
        request = goal.request
        seed = int(request.first_seed) + index
        began = time.monotonic()
        policy = request.policy or "base"
        episode: Any = None
        for attempt in range(EPISODE_ATTEMPTS):
            tell("reset", None)
            self._reset(goal, request.task, seed)
            if policy == "practise" and attempt == 0:
                practice = self._adapt_from_camera(
                    goal, task.instruction, 0, 0.0, seed, self._new_folder("practise", request.task),
                    lambda _, nested: tell("adapt", nested),
                )  # fmt: skip
                policy = practice.adapter_id or "base"
            tell("run", None)
            episode = self._execute(
                goal, task.instruction, request.task, policy, int(request.max_steps) or task.max_steps, seed,
                lambda nested: tell("run", nested),
            )  # fmt: skip
            if episode.outcome != Episode.OUTCOME_ABORTED:
                break
            self.get_logger().warning(f"trial {index + 1}, attempt {attempt + 1}: {episode.message}")
        tell("judge", None)
        truth = self._truth(goal, request.task) if episode.outcome != Episode.OUTCOME_ABORTED else None
        outcome = int(episode.outcome)
        if truth is not None:
            outcome = Episode.OUTCOME_SUCCESS if truth else Episode.OUTCOME_FAILURE
            set_outcome(episode.episode_path, truth, {"outcome_by": "station", "outcome": _name(outcome)})
        score = float(episode.judge_score) if math.isfinite(episode.judge_score) else None
        seconds = round(time.monotonic() - began, 2)
        return Trial(
            index, seed, policy, outcome, truth, score, int(episode.steps), seconds, episode.episode_path,
            episode.message,
        )  # fmt: skip

    def _summary(self, request: Any, trials: Sequence[Trial], message: str, run: Path) -> Any:
        estimate = success_rate([_value(trial) for trial in trials]) if trials else None
        result = RunTrials.Result(run_folder=str(run))
        result.successes = sum(_succeeded(trial) for trial in trials)
        result.judged_successes = sum(trial.judge_score is not None and trial.judge_score >= 1.0 for trial in trials)
        result.abstentions = sum(math.isnan(_value(trial)) for trial in trials)
        result.outcomes = [trial.outcome for trial in trials]
        result.episode_paths = [trial.episode_path for trial in trials]
        result.success_rate = float(estimate.mean) if estimate else math.nan
        result.standard_error = float(estimate.standard_error) if estimate else math.nan
        aborted = [trial for trial in trials if trial.outcome == Episode.OUTCOME_ABORTED]
        if not message and aborted:
            message = f"{len(aborted)} of {len(trials)} trials were stopped by a fault: {aborted[-1].message}"
        result.message = message or f"{result.successes} of {len(trials)} succeeded"
        result.success = len(trials) == request.trials and not aborted
        content = {field: getattr(result, field) for field in ("success", "message", "successes", "judged_successes")}
        content.update(abstentions=result.abstentions, episode_paths=list(result.episode_paths))
        content.update(outcomes=[_name(trial.outcome) for trial in trials], policy=request.policy or "base")
        content.update(success_rate=_json(result.success_rate), standard_error=_json(result.standard_error))
        write_bytes(run / "result.json", json.dumps(content, indent=1).encode())
        return result

    # Practise

    def _work_practise(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        instruction = request.instruction.strip()
        normalise_instruction(instruction)
        check_seconds("seconds", request.seconds)  # before anything moves
        task = self.station.task(request.task) if request.task else None
        run = self._new_folder("practise", request.task or "free")
        result = Practise.Result(run_folder=str(run), outcome=Episode.OUTCOME_UNJUDGED)
        feedback = Practise.Feedback()

        def tell(phase: str, nested: Any = None) -> None:
            nonlocal feedback
            feedback = Practise.Feedback(phase=phase)
            self._phase = f"practise: {phase}"
            for name in ("iteration", "iterations", "mean_reward", "usable_groups", "seconds_left", "step", "preview"):
                if nested is not None and hasattr(nested, name):
                    setattr(feedback, name, getattr(nested, name))
            goal.publish_feedback(feedback)

        try:
            if request.reset:
                if not request.task:
                    raise DataError("task: found nothing; a reset needs the name of a task of the station file")
                tell("reset")
                self._reset(goal, request.task, int(request.seed))
            adapted = self._adapt_from_camera(
                goal, instruction, int(request.iterations), float(request.seconds), int(request.seed), run, tell
            )
            result.frame_path = str(run / "frame.png")
            for name in ("adapter_id", "accepted", "success_before", "success_after", "standard_error"):
                setattr(result, name, getattr(adapted, name))
            result.failed_conditions = list(adapted.failed_conditions)
            result.run_folder = adapted.run_folder
            result.message = adapted.message
            tell("gate")
            if request.execute:
                tell("execute")
                episode = self._execute(
                    goal, instruction, request.task, adapted.adapter_id or "base",
                    task.max_steps if task else 0, int(request.seed), lambda nested: tell("execute", nested),
                )  # fmt: skip
                result.outcome, result.episode_path = episode.outcome, episode.episode_path
                if episode.outcome == Episode.OUTCOME_ABORTED:
                    raise StationError(f"the episode after practising was stopped: {episode.message}")
            tell("log")
            self._log_practice(run, request, result)
        finally:
            self._phase = "idle"
        result.success = True
        return "succeeded", result

    def _adapt_from_camera(
        self, goal: Goal[Any], instruction: str, iterations: int, seconds: float, seed: int, run: Path, tell: Feedback
    ) -> Any:
        """Capture a test frame and adapt from it: the adapter's result. Raises: StationError, Cancelled."""
        tell("capture", None)
        path = run / "frame.png"
        answer = call_service(self._capture, CaptureFrame.Request(path=str(path)), 15.0, lambda: goal.cancelled)
        if not answer.success:
            raise StationError(answer.message)
        request = Adapt.Goal(instruction=instruction, frame=answer.image, iterations=iterations, seed=seed)
        request.seconds = seconds
        request.position = measured_position(self) or []
        limit = 3.0 * (seconds or self.station.adaptation.seconds) + 1500.0
        status, adapted = run_goal(
            self,
            self._adapt,
            "adapter/adapt",
            request,
            limit,
            lambda nested: tell(nested.phase, nested),
            lambda: goal.cancelled,
            self._liveness.watch("adapter"),
        )
        if status != "succeeded" or not adapted.success:
            raise StationError(f"adaptation failed: {adapted.message or status}")
        return adapted

    def _log_practice(self, run: Path, request: Any, result: Any) -> None:
        content = {
            "instruction": request.instruction,
            "task": request.task,
            "seed": int(request.seed),
            "adapter_id": result.adapter_id,
            "accepted": bool(result.accepted),
            "success_before": _json(result.success_before),
            "success_after": _json(result.success_after),
            "standard_error": _json(result.standard_error),
            "failed_conditions": list(result.failed_conditions),
            "outcome": _name(result.outcome),
            "episode_path": result.episode_path,
            "adaptation": result.run_folder,
        }
        write_bytes(run / "practise.json", json.dumps(content, indent=1).encode())

    # Parts of both

    def _execute(
        self,
        goal: Goal[Any],
        instruction: str,
        task: str,
        policy: str,
        max_steps: int,
        seed: int,
        on_feedback: Callable[[Any], None],
    ) -> Any:
        """One episode through the executor, within a limit of wall-clock time."""
        request = RunEpisode.Goal(instruction=instruction, task=task, policy=policy, seed=seed, judge=True)
        request.max_steps = max_steps
        limit = 3.0 * (max_steps or 40) / self.station.arm.control_hz + 120.0
        judging = self.station.judge.timeout_s if self.station.judge.kind == "vlm" else 0.0
        _, episode = run_goal(
            self,
            self._run_episode,
            "executor/run_episode",
            request,
            limit + 3.0 * judging,
            on_feedback,
            lambda: goal.cancelled,
            self._liveness.watch("executor"),
        )
        if episode.outcome == Episode.OUTCOME_CANCELLED:
            raise StationError(f"the episode was cancelled by someone else: {episode.message}")
        return episode

    def _reset(self, goal: Goal[Any], task: str, seed: int) -> None:
        """Arm to its start pose, scene to the task's start. Raises: StationError after a few attempts; Cancelled."""
        problem = ""
        for _ in range(RESET_ATTEMPTS):
            arm = ResetArm.Request()
            if self._scene is not None:
                arm.offset = self._scene.arm_start.draw(np.random.default_rng([seed, 1])).astype(np.float32)
            answer = call_service(self._reset_arm, arm, 60.0, lambda: goal.cancelled)
            problem = "" if answer.success else f"arm reset: {answer.message}"
            if problem:
                self._rearm_simulated(goal, answer.message)
                goal.sleep_until(time.monotonic() + 1.0)
                continue
            if self.station.simulation is not None or self._reset_scene.service_is_ready():
                request = ResetScene.Request(task=task, seed=seed)
                answer = call_service(self._reset_scene, request, 30.0, lambda: goal.cancelled)
                problem = "" if answer.success else f"scene reset: {answer.message}"
            else:
                self._ask_human(goal, task)
            if not problem:
                goal.sleep_until(time.monotonic() + SETTLE_S)
                return
        raise StationError(f"{problem} (after {RESET_ATTEMPTS} attempts)")

    def _rearm_simulated(self, goal: Goal[Any], why: str) -> None:
        """A simulated arm that repeated faults have stopped is armed again; a real one, and an emergency stop, wait
        for a person."""
        if self.station.simulation is None or not FAULT_LATCH.search(why):
            return
        self.get_logger().warning(f"simulated arm re-armed: {why}")
        call_service(self._rearm, Rearm.Request(confirm=True), 10.0, lambda: goal.cancelled)

    def _ask_human(self, goal: Goal[Any], task: str) -> None:
        """Wait until a person says that the scene is reset. Raises: StationError when nobody does; Cancelled."""
        self._scene_is_reset.clear()
        self._waiting_for_human = True
        service = f"{self.get_namespace().rstrip('/')}/evaluator/scene_is_reset"
        call = f"ros2 service call {service} std_srvs/srv/Trigger"
        text = f"bring the scene to the start of '{task}', step back, then: {call}"
        try:
            end = time.monotonic() + self._human_timeout
            self._phase = text
            self.get_logger().warning(text)
            while not goal.wait(self._scene_is_reset, min(30.0, self._human_timeout)):
                if time.monotonic() > end:
                    raise StationError(f"nobody reset the scene within {self._human_timeout:g} s: {text}")
                self.get_logger().warning(text)
        finally:
            self._waiting_for_human = False

    def _on_scene_is_reset(self, request: Trigger.Request, response: Trigger.Response) -> Any:
        response.success = self._waiting_for_human
        response.message = "thank you" if self._waiting_for_human else "no reset was asked for"
        self._scene_is_reset.set()
        return response

    def _truth(self, goal: Goal[Any], task: str) -> bool | None:
        """The station's own truth, None where it has none."""
        if self.station.simulation is None and not self._scene_state.service_is_ready():
            return None
        answer = call_service(self._scene_state, SceneState.Request(task=task), 10.0, lambda: goal.cancelled)
        return bool(answer.success) if answer.known else None

    def _new_folder(self, kind: str, name: str) -> Path:
        path = self._root / kind / f"{datetime.now():%Y%m%d_%H%M%S_%f}_{name}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be created: {error.strerror or error}; free disk space") from error
        return path

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        level = DiagnosticStatus.WARN if self._waiting_for_human else DiagnosticStatus.OK
        return level, self._phase, {}


def _succeeded(trial: Trial) -> bool:
    return trial.outcome == Episode.OUTCOME_SUCCESS


def _value(trial: Trial) -> float:
    """1 or 0, NaN where nobody could tell or a fault stopped it."""
    if trial.outcome in (Episode.OUTCOME_SUCCESS, Episode.OUTCOME_FAILURE):
        return float(_succeeded(trial))
    return math.nan


def _name(outcome: int) -> str:
    return ("failure", "success", "unjudged", "aborted", "cancelled")[outcome]


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _no_trials(message: str, cancelled: bool, request: RunTrials.Goal) -> Any:
    return RunTrials.Result(message=message, success_rate=math.nan, standard_error=math.nan)


def _no_practice(message: str, cancelled: bool, request: Practise.Goal) -> Any:
    outcome = Episode.OUTCOME_CANCELLED if cancelled else Episode.OUTCOME_ABORTED
    nothing = math.nan
    return Practise.Result(
        message=message, outcome=outcome, success_before=nothing, success_after=nothing, standard_error=nothing
    )


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `evaluator`."""
    return run_node(EvaluatorNode, args)

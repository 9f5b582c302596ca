"""The policy executor: runs the policy on the arm for one episode, as the action executor/run_episode.

A control thread keeps the station's rate on a grid of its own (no drift): at the first step of a chunk it takes the
newest camera frame and asks the policy, in an inference thread, for the chunk's actions; then one action a step goes
to the arm. Nothing is sent unless a fresh frame, a ready arm and a living recorder are there; when one of them is
missing the arm holds by itself, because no action comes. Where the station file says so (`look_ahead`), the inference
thread imagines candidate chunks first; the arm holds while it thinks, and is checked again before it moves.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.action import RunEpisode
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep, ExecutedAction
from gymnast_msgs.srv import StartRecording, StopRecording
from sensor_msgs.msg import Image

from gymnast_core.data.episode import check_actions, read_episode
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.outcome import set_outcome
from gymnast_core.errors import CheckpointError, DataError, GymnastError, StationError
from gymnast_core.policy import adapters
from gymnast_core.policy.load import open_policy
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.protocols import EpisodicPolicy, Judge, Policy, Verdict
from gymnast_core.reward.factory import load_judge
from gymnast_core.rl.look_ahead import LookAheadPolicy, open_look_ahead
from gymnast_nodes.common import (
    COMMAND_QOS,
    SENSOR_QOS,
    Diagnostics,
    GatedGroup,
    ManagedNode,
    NewestFrame,
    RateMeter,
    image_to_frame,
    now_seconds,
    run_node,
    take_waiting,
)
from gymnast_nodes.long_action import Cancelled, Goal, LongAction, Worker, call_service

READY_WAIT_S = 5.0
"""How long a goal waits for camera, arm and recorder before it gives up."""
ARM_SILENT_S = 0.5
RECORDER_SILENT_S = 0.15
"""No action is sent when the recorder (which speaks every 50 ms) has been silent for longer."""
RECORDER_LOST_S = 1.0
"""After this long the episode is given up."""
MAX_REFUSALS = 3
"""The episode is given up when the arm refuses this many actions in a row for a reason of its own."""
STATION_REFUSALS = frozenset(
    (
        "not_active",
        "emergency_stop",
        "resetting",
        "joint_states_stale",
        "driver_unchecked",
        "stale",
        "stamp_in_future",
        "out_of_order",
    )
)
"""Those reasons. What the safety envelope refuses (out of reach) is the policy's doing: the episode goes on."""
MIN_SPACING = 0.6
"""Shortest time between two actions, in control periods: a slow inference is not made up for by a burst."""
INFERENCE_LIMIT_S = 120.0
MAX_ADAPTERS = 8
"""So many stay in memory; the oldest names leave first (their folders stay)."""

Result = RunEpisode.Result
Thought = TypeVar("Thought")
OUTCOMES = {
    Result.OUTCOME_FAILURE: "failure",
    Result.OUTCOME_SUCCESS: "success",
    Result.OUTCOME_UNJUDGED: "unjudged",
    Result.OUTCOME_ABORTED: "aborted",
    Result.OUTCOME_CANCELLED: "cancelled",
}


@dataclass
class _Run:
    """One episode on its way."""

    episode_id: str
    instruction: str
    max_steps: int
    step: int = 0
    path: str = ""
    recording: bool = False
    refusals: int = 0
    refusal: str = ""
    rate: RateMeter = field(default_factory=RateMeter)


class ExecutorNode(ManagedNode):
    """See the module's text. Action executor/run_episode; topics arm/action and executor/step."""

    def __init__(self) -> None:
        super().__init__("executor")
        self._policy: Policy | None = None
        self._looking: LookAheadPolicy | None = None
        beside = Path(self.station.recorder.folder).expanduser().resolve().parent
        self._answers = beside / "executor" / f"{datetime.now():%Y%m%d_%H%M%S_%f}"
        """Where the raw answers of a judge behind an API are kept."""
        self._store = adapters.AdapterStore(self.station.models.adapters)
        self._judge: Judge | None = None
        self._camera = self._new_camera()
        self._arm: tuple[ArmState, float] | None = None
        self._recorder: tuple[DiagnosticStatus, float] | None = None
        self._run: _Run | None = None
        self._latency = 0.0
        self._inference, self._judging = Worker("inference"), Worker("judge")
        self._actions = self.create_publisher(BridgeAction, "arm/action", COMMAND_QOS)
        self._steps = self.create_publisher(EpisodeStep, "executor/step", COMMAND_QOS)
        self._watching = False
        gate = GatedGroup(lambda: self._watching)
        topic = self.station.camera.topic
        self._watched = (
            self.create_subscription(Image, topic, lambda m: self._camera.take(m), SENSOR_QOS, callback_group=gate),
            self.create_subscription(ArmState, "arm/state", self._on_arm, COMMAND_QOS, callback_group=gate),
        )
        self.create_subscription(ExecutedAction, "arm/executed", self._on_executed, COMMAND_QOS)
        self.create_subscription(DiagnosticStatus, "recorder/status", self._on_recorder, COMMAND_QOS)
        self._start_recording = self.create_client(StartRecording, "recorder/start")
        self._stop_recording = self.create_client(StopRecording, "recorder/stop")
        self._action = LongAction(self, RunEpisode, "executor/run_episode", self._work, self._refuse, _failed)
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("episode", self._report)

    # Lifecycle

    def configure(self) -> None:
        """Load the policy; everything wrong with its folder is said here, before an arm moves."""
        models = self.station.models
        self._policy = open_policy(models.policy, models.unnorm_key, models.device, beside=self.config_path)
        candidates = self.station.look_ahead.rollouts
        self._looking = (
            open_look_ahead(self._policy, self.config_path, candidates, run_folder=str(self._answers))
            if candidates
            else None
        )
        if candidates:
            self.get_logger().info(f"looking ahead with {candidates} candidates a chunk")
        size = self.station.camera.observation_size
        started = time.monotonic()
        self._actor().act(np.zeros((1, size, size, 3), np.uint8), ["warm up"])
        self._latency = time.monotonic() - started
        self.get_logger().info(f"policy {models.policy} loaded; one chunk takes {self._latency * 1000:.0f} ms")

    def activate(self) -> None:
        self._action.allow()

    def deactivate(self) -> None:
        self._action.interrupt()

    def cleanup(self) -> None:
        self._policy = self._judge = self._looking = None

    def stop(self) -> None:
        self._action.interrupt(timeout_s=3.0)
        self._inference.end()
        self._judging.end()

    # What comes in

    def _new_camera(self) -> NewestFrame:
        return NewestFrame(self.station.camera, lambda: now_seconds(self))

    def _on_arm(self, message: ArmState) -> None:
        self._arm = (message, time.monotonic())

    def _on_recorder(self, message: DiagnosticStatus) -> None:
        self._recorder = (message, time.monotonic())

    def _on_executed(self, message: ExecutedAction) -> None:
        run = self._run
        if run is None or message.commanded.episode_id != run.episode_id:
            return
        refused = not message.accepted and bool(STATION_REFUSALS & set(message.safety_events))
        run.refusals = run.refusals + 1 if refused else 0
        run.refusal = ", ".join(message.safety_events)

    # The episode

    def _refuse(self, request: RunEpisode.Goal) -> str:
        return "" if self.is_active else "the executor is not active"

    def _work(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        run = _Run("", "", 0)
        outcome, message = Result.OUTCOME_UNJUDGED, ""
        try:
            run = self._prepare(request)
            if isinstance(self._policy, EpisodicPolicy):
                self._think(goal, self._policy.restart)
            self._watch()
            self._wait_until_ready(goal)
            self._record(goal, run)
            self._run = run
            self._control(goal, run)
        except Cancelled:
            outcome, message = Result.OUTCOME_CANCELLED, f"cancelled at step {run.step}; the arm holds"
        except GymnastError as error:
            outcome, message = Result.OUTCOME_ABORTED, f"{error}; the arm holds"
        except Exception as error:
            outcome, message = Result.OUTCOME_ABORTED, f"unexpected {type(error).__name__}: {error}; the arm holds"
        finally:
            self._run = None
            self._watching = False
        if run.recording:
            message = _joined(message, self._finish_recording(run, outcome, message))
        result = Result(outcome=outcome, message=message, steps=run.step, episode_path=run.path, judge_score=np.nan)
        if outcome == Result.OUTCOME_UNJUDGED:
            status = "succeeded"
            if request.judge:
                try:
                    self._judge_episode(goal, run, result)
                except Cancelled:
                    status, result.message = "canceled", _joined(result.message, "cancelled while it was judged")
            self.get_logger().info(f"{run.episode_id}: {run.step} steps, {OUTCOMES[result.outcome]}. {result.message}")
            return status, result
        what = f"{run.episode_id if run.path else 'episode not started'}: {message}"
        if outcome == Result.OUTCOME_CANCELLED:
            self.get_logger().info(what)
        else:
            self.get_logger().error(what)
        return "canceled" if outcome == Result.OUTCOME_CANCELLED else "aborted", result

    def _prepare(self, request: RunEpisode.Goal) -> _Run:
        """Check the goal and put its adapter in place. Raises: DataError, ConfigError, CheckpointError."""
        if self._policy is None:
            raise StationError("the executor has no policy; configure it first")
        instruction = request.instruction.strip()
        normalise_instruction(instruction)
        task = self.station.task(request.task) if request.task else None
        max_steps = request.max_steps or (task.max_steps if task else 0) or 40
        if max_steps > 10000:
            raise DataError(f"max_steps: found {max_steps}, allowed are 1 to 10000")
        self._select(self._policy, request.policy or "base")
        if self._looking is not None:
            self._looking.begin(int(request.seed))
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", request.task or "episode")
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        return _Run(f"{stamp}-{name}", instruction, max_steps)

    def _select(self, policy: Policy, name: str) -> None:
        """Let the base or one stored adapter act. Raises: CheckpointError when there is no such adapter for it."""
        if not isinstance(policy, OpenVLAPolicy):
            if name != "base":
                raise CheckpointError(f"policy '{name}': {self.station.models.policy} takes no adapters; use 'base'")
            return
        if name == "base":
            adapters.deactivate(policy)
            return
        present = adapters.attached(policy)
        if name not in present:
            for other in present[: max(0, len(present) - MAX_ADAPTERS + 1)]:
                adapters.detach(policy, other)
            self._store.load(policy, name)
        adapters.activate(policy, name)

    def _watch(self) -> None:
        """Frames and arm states are looked at during an episode only; what waited until now says nothing of now."""
        for subscription in self._watched:
            take_waiting(subscription)
        self._camera, self._arm = self._new_camera(), None
        self._watching = True
        self.executor.wake()

    def _wait_until_ready(self, goal: Goal[Any]) -> None:
        """Wait for camera, arm and recorder. Raises: StationError naming the one that is missing; Cancelled."""
        end = time.monotonic() + READY_WAIT_S
        while True:
            problem = self._camera.problem or self._arm_problem() or self._recorder_problem()
            if not problem:
                return
            if time.monotonic() > end:
                raise StationError(problem)
            goal.sleep_until(time.monotonic() + 0.05)

    def _record(self, goal: Goal[Any], run: _Run) -> None:
        request = goal.request
        facts: dict[str, Any] = {"task": request.task, "policy": request.policy or "base", "seed": int(request.seed)}
        fingerprint = self._policy.checkpoint.fingerprint if isinstance(self._policy, OpenVLAPolicy) else ""
        facts.update(max_steps=run.max_steps, checkpoint=fingerprint, look_ahead=self.station.look_ahead.rollouts)
        start = StartRecording.Request(episode_id=run.episode_id, instruction=run.instruction)
        start.metadata_json = json.dumps(facts)
        answer = call_service(self._start_recording, start, 5.0, lambda: goal.cancelled)
        if not answer.success:
            raise StationError(f"recorder: {answer.message}")
        run.path, run.recording = answer.path, True

    def _control(self, goal: Goal[Any], run: _Run) -> None:
        """The control loop. Raises: StationError on any fault; Cancelled."""
        period = 1.0 / self.station.arm.control_hz
        chunk: list[np.ndarray] = []
        frame_stamp: Any = None
        latency = 0.0
        due = time.monotonic()
        while run.step < run.max_steps:
            goal.sleep_until(due)
            self._check_station(run)
            latency = 0.0
            if not chunk:
                chunk, frame_stamp, latency = self._infer(goal, run)
                self._check_station(run)
            self._await_recorder(goal, run)
            self._send(run, chunk.pop(0), frame_stamp, latency, goal)
            run.step += 1
            due = max(due + period, time.monotonic() + MIN_SPACING * period)
        goal.sleep_until(due)  # the last motion ends
        if run.refusals:
            raise StationError(f"the arm refused the last action ({run.refusal})")

    def _infer(self, goal: Goal[Any], run: _Run) -> tuple[list[np.ndarray], Any, float]:
        """The next chunk of actions, the stamp of the frame it comes from, and the seconds it took."""
        image = self._camera.image
        policy, looking, arm = self._actor(), self._looking, self._arm
        if image is None:
            raise StationError("camera: no frame")
        started = time.monotonic()

        def act() -> np.ndarray:
            frame = resize_frame(image_to_frame(image, "camera frame"), self.station.camera.observation_size)
            if looking is not None and arm is not None:
                place = arm[0].pose.position
                looking.place(np.array([[place.x, place.y, place.z]]))
            return policy.act(frame[None], [run.instruction])

        actions = self._think(goal, act)
        if actions.ndim != 3 or len(actions) != 1 or not len(actions[0]):
            raise DataError(f"policy: found actions of shape {actions.shape}, needed (1, chunk, 7)")
        self._latency = time.monotonic() - started
        return list(check_actions(actions[0], "policy")), image.header.stamp, self._latency

    def _think(self, goal: Goal[Any], work: Callable[[], Thought]) -> Thought:
        """`work` in the inference thread, behind what an ended episode left there. Raises: StationError, Cancelled."""
        try:
            return self._inference.do(goal, work, INFERENCE_LIMIT_S)
        except TimeoutError as error:
            raise StationError(f"the policy gave no answer within {INFERENCE_LIMIT_S:g} s") from error

    def _actor(self) -> Policy:
        """Who chooses the actions."""
        actor = self._looking or self._policy
        if actor is None:
            raise StationError("the executor has no policy; configure it first")
        return actor

    def _send(self, run: _Run, action: np.ndarray, frame_stamp: Any, latency: float, goal: Goal[Any]) -> None:
        message = BridgeAction(episode_id=run.episode_id, step=run.step, gripper=float(np.clip(action[6], 0.0, 1.0)))
        message.translation = action[:3].astype(np.float32)
        message.rotation = action[3:6].astype(np.float32)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = f"{self.station.arm.driver[1:]}/base_link"
        step = EpisodeStep(header=message.header, episode_id=run.episode_id, step=run.step, action=message)
        step.frame_stamp = frame_stamp
        step.policy_latency = float(latency)
        self._actions.publish(message)
        self._steps.publish(step)
        run.rate.tick()
        feedback = RunEpisode.Feedback(step=run.step, last_action=message)
        feedback.frame_rate = float(self._camera.rate.rate)
        feedback.step_rate = float(run.rate.rate)
        goal.publish_feedback(feedback)

    # What must hold while the arm moves

    def _check_station(self, run: _Run) -> None:
        problem = self._camera.problem or self._arm_problem()
        if not problem and run.refusals >= MAX_REFUSALS:
            problem = f"the arm refused {run.refusals} actions in a row ({run.refusal})"
        if problem:
            raise StationError(problem)

    def _arm_problem(self) -> str:
        if self._arm is None:
            return "arm: no arm/state; is the arm node active?"
        state, arrived = self._arm
        age = time.monotonic() - arrived
        if age > ARM_SILENT_S:
            return f"arm: no arm/state for {age:.1f} s; is the arm node down?"
        if state.mode in (ArmState.MODE_READY, ArmState.MODE_HOLDING):
            return ""
        names = {ArmState.MODE_UNCONFIGURED: "not configured", ArmState.MODE_MOVING: "moving"}
        return f"arm: {names.get(state.mode, 'stopped')}{': ' + state.detail if state.detail else ''}"

    def _recorder_problem(self) -> str:
        if self._recorder is None or time.monotonic() - self._recorder[1] > RECORDER_LOST_S:
            return "recorder: silent; is the recorder node active?"
        return ""

    def _await_recorder(self, goal: Goal[Any], run: _Run) -> None:
        """Return as soon as the recorder is known to log this episode. Raises: StationError, Cancelled."""
        begun = time.monotonic()
        while True:
            if self._recorder is not None:
                status, arrived = self._recorder
                if status.level != DiagnosticStatus.OK and status.hardware_id == run.episode_id:
                    run.recording = False
                    raise StationError(f"recorder: {status.message}")
                if status.hardware_id == run.episode_id and time.monotonic() - arrived < RECORDER_SILENT_S:
                    return
            if time.monotonic() - begun > RECORDER_LOST_S:
                raise StationError(f"recorder: silent for {RECORDER_LOST_S:g} s; nothing would be logged")
            goal.sleep_until(time.monotonic() + 0.01)

    # The end

    def _finish_recording(self, run: _Run, outcome: int, message: str) -> str:
        """Stop the recorder; returns what went wrong with it, or an empty text."""
        facts = {"outcome": OUTCOMES[outcome], "reason": message}
        request = StopRecording.Request(episode_id=run.episode_id, outcome_json=json.dumps(facts))
        try:
            answer = call_service(self._stop_recording, request, 4.0)
        except GymnastError as error:
            return f"recorder: {error}"
        return "" if answer.success else f"recorder: {answer.message}"

    def _verdict(self, run: _Run) -> tuple[str, Verdict]:
        """The judge's name and verdict. Raises: ConfigError, CheckpointError, DataError, JudgeError."""
        if self._judge is None:
            looking = self._looking
            self._judge = looking.judge if looking else load_judge(self.station, self.config_path, self._answers)
        return self._judge.name, judge_folder(self._judge, run.path, run.instruction)

    def _judge_episode(self, goal: Goal[Any], run: _Run, result: Any) -> None:
        try:
            name, verdict = self._judging.do(goal, lambda: self._verdict(run), math.inf)
            facts: dict[str, Any] = {"outcome_by": name, "judge": name, "judge_reason": verdict.reason}
            facts.update(judge_confidence=verdict.confidence)
            if verdict.score is None:
                result.message = _joined(result.message, f"judge abstained: {verdict.reason}")
                return
            success = bool(verdict.completed)
            result.outcome = Result.OUTCOME_SUCCESS if success else Result.OUTCOME_FAILURE
            result.judge_score, result.judge_confidence = float(verdict.score), float(verdict.confidence)
            facts.update(judge_score=verdict.score, outcome=OUTCOMES[result.outcome])
            set_outcome(run.path, success, facts)
        except GymnastError as error:
            result.message = _joined(result.message, f"not judged: {error}")

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        run = self._run
        values = {"chunk_latency_s": self._latency}
        if run is None:  # frames are looked at during an episode only
            return DiagnosticStatus.OK, "idle", values
        values.update(frame_rate=self._camera.rate.rate, step_rate=run.rate.rate)
        return DiagnosticStatus.OK, f"{run.episode_id}, step {run.step}", values


def judge_folder(judge: Judge, folder: str, instruction: str) -> Verdict:
    """The judge's verdict on a recorded episode. Raises: DataError, JudgeError."""
    frames = read_episode(folder).frames
    chosen = judge.frame_indices(len(frames))
    return judge.judge([frames[chosen]], [instruction])[0]


def _failed(message: str, cancelled: bool, request: RunEpisode.Goal) -> Any:
    outcome = Result.OUTCOME_CANCELLED if cancelled else Result.OUTCOME_ABORTED
    return Result(outcome=outcome, message=message, judge_score=np.nan)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `executor`."""
    return run_node(ExecutorNode, args)

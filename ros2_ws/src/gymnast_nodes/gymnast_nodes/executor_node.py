"""The policy executor: runs the policy on the arm for one episode, as the action executor/run_episode.

A control thread keeps the station's rate on a grid of its own (no drift): at the first step of a chunk it takes the
newest camera frame and asks the policy, in an inference thread, for the chunk's actions; then one action per step goes
to the arm. Nothing is sent unless a fresh frame, a ready arm and a living recorder are there; when one of them is
missing the arm holds by itself, because no action comes. Where the station file (`look_ahead`) or the policy's name
says so, the inference thread imagines candidate chunks first; the arm holds while it thinks, and is checked again
before it moves.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.action import RunEpisode
from gymnast_msgs.msg import EpisodeStep
from sensor_msgs.msg import Image

from gymnast_core.data.frames import resize_frame
from gymnast_core.data.outcome import (
    ABORTED,
    CANCELLED,
    OUTCOMES,
    UNJUDGED,
)
from gymnast_core.errors import DataError, GymnastError, StationError
from gymnast_core.files import user_path
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.rollout.station_actor import StationActor
from gymnast_core.rollout.verdicts import keep_verdict
from gymnast_nodes.arm_actions import MIN_SPACING
from gymnast_nodes.calls import Cancelled
from gymnast_nodes.commander import Commander
from gymnast_nodes.lifecycle import Diagnostics, ManagedNode
from gymnast_nodes.long_action import Goal, LongAction, Worker
from gymnast_nodes.messages import frame_to_image, image_to_frame
from gymnast_nodes.qos import COMMAND_QOS, LOGGED_QOS
from gymnast_nodes.reading import RateMeter
from gymnast_nodes.recorder_client import RecorderClient
from gymnast_nodes.running import run_node
from gymnast_nodes.station_watch import StationWatch
from gymnast_nodes.success_look import SuccessLook

READY_WAIT_S = 5.0
"""How long a goal waits for camera, arm and recorder before it gives up."""
PATIENCE_S = 1.0
"""How long an episode waits, the arm held, for a frame or an arm state that is late."""
INFERENCE_LIMIT_S = 120.0
MAX_STEPS = 10000

Result = RunEpisode.Result
Thought = TypeVar("Thought")


@dataclass
class _Run:
    """One episode on its way. path: its folder, once it is recorded. look: who looks for success; None: nobody does.
    succeeded: whether that ended it."""

    episode_id: str
    instruction: str
    max_steps: int
    step: int = 0
    path: str = ""
    look: SuccessLook | None = None
    succeeded: bool = False
    rate: RateMeter = field(default_factory=RateMeter)


@dataclass
class _Chunk:
    """Actions to come, the stamp of the frame they come from, and the seconds that the policy took."""

    actions: list[np.ndarray] = field(default_factory=list)
    frame_stamp: Time | None = None
    latency: float = 0.0


class ExecutorNode(ManagedNode):
    """See the module's text. Action executor/run_episode; topics arm/action and executor/step."""

    def __init__(self) -> None:
        super().__init__("executor")
        beside = user_path(self.station.recorder.folder, "recorder.folder").resolve().parent
        answers = beside / "executor" / f"{datetime.now():%Y%m%d_%H%M%S_%f}"
        self._actor = StationActor(self.station, self.config_path, answers)
        self._run: _Run | None = None
        self._latency = 0.0
        self._inference, self._judging = Worker("inference"), Worker("judge")
        self._steps = self.create_publisher(EpisodeStep, "executor/step", LOGGED_QOS)
        self._view = self.create_publisher(Image, "executor/policy_view", COMMAND_QOS)
        self._commander = Commander(self)
        self._watch = StationWatch(self, self._commander)
        self._recorder = RecorderClient(self)
        self._action = LongAction(self, RunEpisode, "executor/run_episode", self._work, self._refuse, _failed)
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("episode", self._report)

    # Lifecycle

    def configure(self) -> None:
        """Load the policy; everything wrong with its folder is said here, before an arm moves."""
        self._latency = self._actor.load()
        if candidates := self.station.look_ahead.rollouts:
            self.get_logger().info(f"looking ahead with {candidates} candidates a chunk")
        model = self.station.models.policy
        self.get_logger().info(f"policy {model} loaded; one chunk takes {self._latency * 1000:.0f} ms")

    def activate(self) -> None:
        self._action.allow()

    def deactivate(self) -> None:
        self._action.interrupt()

    def cleanup(self) -> None:
        self._actor.unload()

    def stop(self) -> None:
        self._action.interrupt(timeout_s=3.0)
        self._inference.end()
        self._judging.end()

    # The episode

    def _refuse(self, request: RunEpisode.Goal) -> str:
        return "" if self.is_active else "the executor is not active"

    def _work(self, goal: Goal[Any]) -> tuple[str, Any]:
        run = _Run("", "", 0)
        outcome, message = UNJUDGED, ""
        try:
            run = self._prepare(goal.request)
            self._begin(goal, run)
            self._control(goal, run)
            message = f"the judge saw success: ended after {run.step} steps" if run.succeeded else ""
        except Cancelled:
            outcome, message = CANCELLED, f"cancelled at step {run.step}; the arm holds"
        except GymnastError as error:
            outcome, message = ABORTED, f"{error}; the arm holds"
        except Exception as error:
            outcome, message = ABORTED, f"unexpected {type(error).__name__}: {error}; the arm holds"
        finally:
            self._run = None
            if run.look is not None:
                run.look.end()
            self._watch.end()
            self._commander.end()
        message = _joined(message, self._recorder.stop(outcome, message))
        result = Result(outcome=outcome, message=message, steps=run.step, episode_path=run.path, judge_score=np.nan)
        result.stopped_at_success = run.succeeded
        return self._conclude(goal, run, result), result

    def _prepare(self, request: RunEpisode.Goal) -> _Run:
        """Check the goal and put its adapter in place.

        Raises: DataError, ConfigError, CheckpointError, StationError.
        """
        instruction = request.instruction.strip()
        normalise_instruction(instruction)
        task = self.station.task(request.task) if request.task else None
        max_steps = request.max_steps or (task.max_steps if task else 0) or 40
        if max_steps > MAX_STEPS:
            raise DataError(f"max_steps: found {max_steps}, allowed are 1 to {MAX_STEPS}")
        self._actor.select(request.policy or "base", int(request.seed))
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", request.task or "episode")
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        return _Run(f"{stamp}-{name}", instruction, max_steps)

    def _begin(self, goal: Goal[Any], run: _Run) -> None:
        """Have camera, arm and recorder ready, and the episode recorded. Raises: StationError; Cancelled."""
        if self._actor.remembers:
            self._think(goal, self._actor.restart)
        if self.station.executor.stop_at_success:
            run.look = self._open_look(goal, run)
        self._watch.begin()
        self._commander.begin()
        self.executor.wake()
        self._wait_until_ready(goal)
        if self._watch.camera.complaint:
            self.get_logger().warning(self._watch.camera.complaint)
        request = goal.request
        policy = request.policy or "base"
        facts: dict[str, Any] = {"task": request.task, "policy": policy, "seed": int(request.seed)}
        facts.update(
            max_steps=run.max_steps, checkpoint=self._actor.fingerprint, look_ahead=self._actor.candidates(policy)
        )
        run.path = self._recorder.start(goal, run.episode_id, run.instruction, facts)
        self._watch.follow(run.episode_id)
        self._run = run

    def _open_look(self, goal: Goal[Any], run: _Run) -> SuccessLook | None:
        """Who looks for success in an episode; None, with a warning, where the judge cannot. Raises: Cancelled."""
        try:
            watch = self._judging.do(goal, lambda: self._actor.watch(run.instruction), math.inf)
        except GymnastError as error:
            self.get_logger().warning(f"nobody looks for success in this episode: {error}")
            return None
        return None if watch is None else SuccessLook(self._judging, watch, self.get_logger().warning)

    def _wait_until_ready(self, goal: Goal[Any]) -> None:
        """Wait for camera, arm and recorder. Raises: StationError naming the one that is missing; Cancelled."""
        end = time.monotonic() + READY_WAIT_S
        while True:
            problem = self._watch.problem or self._recorder.problem or self._commander.problem
            if not problem and self._watch.commanded:
                return
            if time.monotonic() > end:
                raise StationError(problem or "arm: it does not say that this executor commands it")
            goal.sleep_until(time.monotonic() + 0.05)

    def _control(self, goal: Goal[Any], run: _Run) -> None:
        """The control loop. Raises: StationError on any fault; Cancelled."""
        period = 1.0 / self.station.arm.control_hz
        chunk = _Chunk()
        due = time.monotonic()
        while run.step < run.max_steps:
            goal.sleep_until(due)
            self._check(goal)
            if run.look is not None and run.look.see(self._frame()[0]):
                run.succeeded = True
                break
            chunk.latency = 0.0
            if not chunk.actions:
                chunk = self._infer(goal, run)
                self._check(goal)
            self._recorder.wait_until_logging(goal)
            self._send(goal, run, chunk)
            run.step += 1
            due = max(due + period, time.monotonic() + MIN_SPACING * period)
        goal.sleep_until(due)  # the last motion ends
        self._watch.check_last()

    def _check(self, goal: Goal[Any]) -> None:
        """Wait for frames and arm states that are late: no action is sent meanwhile, so the arm holds.

        A machine that stands still for a moment must not cost an episode. Raises: StationError on any fault; Cancelled.
        """
        began = time.monotonic()
        overdue = self._watch.overdue
        while self._watch.overdue and time.monotonic() - began < PATIENCE_S:
            goal.sleep_until(time.monotonic() + 0.02)
        self._watch.check()
        if overdue:
            self.get_logger().warning(f"{overdue}; the episode waited {time.monotonic() - began:.1f} s")

    def _infer(self, goal: Goal[Any], run: _Run) -> _Chunk:
        """The next chunk of actions."""
        position = self._watch.position
        frame, stamp_ns = self._frame()
        stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        if self._view.get_subscription_count():
            self._view.publish(frame_to_image(frame, stamp, "camera"))
        started = time.monotonic()
        actions = list(self._think(goal, lambda: self._actor.act(frame, run.instruction, position)))
        self._latency = time.monotonic() - started
        return _Chunk(actions, stamp, self._latency)

    def _frame(self) -> tuple[np.ndarray, int]:
        """The newest frame (S, S, 3) uint8 in observation size, and its stamp, nanoseconds. Raises: StationError."""
        image, stamp_ns = self._watch.camera.image, self._watch.camera.stamp_ns
        if image is None:
            raise StationError("camera: no frame")
        return resize_frame(image_to_frame(image, "camera frame"), self.station.camera.observation_size), stamp_ns

    def _think(self, goal: Goal[Any], work: Callable[[], Thought]) -> Thought:
        """`work` in the inference thread, behind what an ended episode left there. Raises: StationError, Cancelled."""
        try:
            return self._inference.do(goal, work, INFERENCE_LIMIT_S)
        except TimeoutError as error:
            raise StationError(f"the policy gave no answer within {INFERENCE_LIMIT_S:g} s") from error

    def _send(self, goal: Goal[Any], run: _Run, chunk: _Chunk) -> None:
        """The chunk's next action, to the arm, to the recorder and to who asked for the episode."""
        action = chunk.actions.pop(0)
        message = self._commander.send(run.episode_id, run.step, action)
        step = EpisodeStep(header=message.header, episode_id=run.episode_id, step=run.step, action=message)
        step.frame_stamp = chunk.frame_stamp
        step.policy_latency = float(chunk.latency)
        self._steps.publish(step)
        run.rate.tick()
        feedback = RunEpisode.Feedback(step=run.step, last_action=message)
        feedback.frame_rate = float(self._watch.camera.rate.rate)
        feedback.step_rate = float(run.rate.rate)
        goal.publish_feedback(feedback)

    # The end

    def _conclude(self, goal: Goal[Any], run: _Run, result: Any) -> str:
        """Have a whole episode judged where that was asked for, and log what came of it; returns the goal's status."""
        if result.outcome == UNJUDGED:
            status = "succeeded"
            if goal.request.judge:
                try:
                    self._judge(goal, run, result)
                except Cancelled:
                    status, result.message = "canceled", _joined(result.message, "cancelled while it was judged")
            self.get_logger().info(f"{run.episode_id}: {run.step} steps, {OUTCOMES[result.outcome]}. {result.message}")
            return status
        what = f"{run.episode_id if run.path else 'episode not started'}: {result.message}"
        if result.outcome == CANCELLED:
            self.get_logger().info(what)
            return "canceled"
        self.get_logger().error(what)
        return "aborted"

    def _judge(self, goal: Goal[Any], run: _Run, result: Any) -> None:
        try:
            name, verdict = self._judging.do(goal, lambda: self._actor.judge(run.path, run.instruction), math.inf)
            result.outcome = keep_verdict(run.path, name, verdict)
            if verdict.score is None:
                result.message = _joined(result.message, f"judge abstained: {verdict.reason}")
                return
            result.judge_score, result.judge_confidence = float(verdict.score), float(verdict.confidence)
        except GymnastError as error:
            result.message = _joined(result.message, f"not judged: {error}")

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        run, camera = self._run, self._watch.camera
        values = {"chunk_latency_s": self._latency}
        if run is None:  # frames are looked at during an episode only
            return DiagnosticStatus.OK, "idle", values
        values.update(frame_rate=camera.rate.rate, step_rate=run.rate.rate)
        if camera.complaint:
            return DiagnosticStatus.WARN, camera.complaint, values
        return DiagnosticStatus.OK, f"{run.episode_id}, step {run.step}", values


def _failed(message: str, cancelled: bool, request: RunEpisode.Goal) -> Any:
    return Result(outcome=CANCELLED if cancelled else ABORTED, message=message, judge_score=np.nan)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `executor`."""
    return run_node(ExecutorNode, args)

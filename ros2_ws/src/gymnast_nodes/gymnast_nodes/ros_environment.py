"""The environment protocol over a ROS station, simulated or real: the same trainer and evaluators run on it.

One rollout at a time. Actions go the way all actions go, to the arm node and through its safety envelope.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnast_msgs.msg import BridgeAction, ExecutedAction
from sensor_msgs.msg import Image

from gymnast_core.config import StationConfig
from gymnast_core.data.episode import check_actions
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import StationError
from gymnast_core.protocols import Start, StepResult
from gymnast_core.station.scene import load_scene
from gymnast_nodes.client import Station
from gymnast_nodes.common import COMMAND_QOS, SENSOR_QOS, NewestFrame, image_to_frame, now_seconds
from gymnast_nodes.executor_node import MIN_SPACING, STATION_REFUSALS

SETTLE_S = 0.5
ANSWER_S = 1.0


class RosStationEnvironment:
    """A running station (`gymnast up`) as an `Environment` with one rollout.

    station: a client of it. config: its station file. Frames are squashed to the observation size, as everywhere.

    Raises: StationError when camera or arm do not answer or the arm refuses an action for a reason of its own.
    """

    def __init__(self, station: Station, config: StationConfig) -> None:
        self._station = station
        self._config = config
        self._scene = load_scene(config.simulation.scene)[0] if config.simulation is not None else None
        self._actions = station.node.create_publisher(BridgeAction, "arm/action", COMMAND_QOS)
        station.node.create_subscription(ExecutedAction, "arm/executed", self._on_executed, COMMAND_QOS)
        station.node.create_subscription(Image, config.camera.topic, self._on_image, SENSOR_QOS)
        self._lock = threading.Condition()
        self._camera = NewestFrame(config.camera, lambda: now_seconds(station.node))
        self._executed: dict[int, ExecutedAction] = {}
        self._episode = ""
        self._step = 0
        self._task = ""
        self._due = 0.0
        self._frames: list[np.ndarray] = []

    @property
    def max_rollouts(self) -> int:
        """One arm, one rollout."""
        return 1

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        """Arm and scene to the start of `starts[0].task`; returns the first frame (1, S, S, 3) uint8."""
        if len(starts) != 1:
            raise StationError(f"found {len(starts)} starts; a real-time station runs one rollout at a time")
        start = starts[0]
        offset = None
        if self._scene is not None:
            offset = self._scene.arm_start.draw(np.random.default_rng([start.seed, 1]))
        self._station.reset_arm(offset)
        if start.task:
            self._station.reset_scene(start.task, start.seed)
        time.sleep(SETTLE_S)
        self._task = start.task
        self._episode = f"environment-{time.time_ns()}"
        self._step = 0
        self._executed.clear()
        self._due = time.monotonic()
        self._frames = [self._frame()]
        return self._frames[-1][None]

    def step(self, actions: np.ndarray) -> StepResult:
        """Execute one chunk (1, K, 7) at the control rate; returns when its last motion has ended."""
        if not self._episode:
            raise StationError("the station was not reset yet")
        if actions.ndim != 3 or len(actions) != 1:
            raise StationError(f"found actions of shape {actions.shape}, needed (1, steps, 7)")
        period = 1.0 / self._config.arm.control_hz
        executed: list[np.ndarray] = []
        events: list[str] = []
        changed: list[bool] = []
        for action in check_actions(actions[0]):
            self._due = max(self._due, time.monotonic() - (1.0 - MIN_SPACING) * period)
            time.sleep(max(0.0, self._due - time.monotonic()))
            answer = self._act(action)
            executed.append(np.array([*answer.translation, *answer.rotation, answer.gripper], dtype=np.float32))
            events.extend(answer.safety_events)
            changed.append(bool(answer.safety_events))
            self._due += period
            time.sleep(max(0.0, self._due - time.monotonic()))
            self._frames.append(self._frame())
        success, _ = self._station.scene_state(self._task) if self._scene is not None else (None, np.nan)
        truth = np.array([np.nan if success is None else float(success)], dtype=np.float32)
        done = np.stack(executed)[None]
        return StepResult(self._frames[-1][None], done, truth, (tuple(events),), np.array([changed]))

    def video(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Frames since the reset (1, n, S, S, 3) uint8, one a step."""
        wanted = range(len(self._frames)) if indices is None else indices
        return np.stack([self._frames[index] for index in wanted])[None]

    def _act(self, action: np.ndarray) -> ExecutedAction:
        message = BridgeAction(episode_id=self._episode, step=self._step, gripper=float(np.clip(action[6], 0.0, 1.0)))
        message.translation, message.rotation = action[:3], action[3:6]
        message.header.stamp = self._station.node.get_clock().now().to_msg()
        step, self._step = self._step, self._step + 1
        self._actions.publish(message)
        with self._lock:
            if not self._lock.wait_for(lambda: step in self._executed, ANSWER_S):
                raise StationError(f"the arm node did not answer action {step} within {ANSWER_S:g} s; is it active?")
            answer = self._executed.pop(step)
        refusals = STATION_REFUSALS & set(answer.safety_events)
        if not answer.accepted and refusals:
            raise StationError(f"the arm refused action {step}: {', '.join(sorted(refusals))}")
        return answer

    def _frame(self) -> np.ndarray:
        """The newest frame, squashed. Raises: StationError when there is no fresh one."""
        with self._lock:
            self._lock.wait_for(lambda: not self._camera.problem, self._config.camera.max_age_s)
            image, problem = self._camera.image, self._camera.problem
        if image is None or problem:
            raise StationError(problem)
        return resize_frame(image_to_frame(image, "camera frame"), self._config.camera.observation_size)

    def _on_executed(self, message: Any) -> None:
        if message.commanded.episode_id == self._episode:
            with self._lock:
                self._executed[message.commanded.step] = message
                self._lock.notify_all()

    def _on_image(self, message: Image) -> None:
        with self._lock:
            self._camera.take(message)
            self._lock.notify_all()

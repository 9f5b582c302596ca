"""A script at the arm's controls: it looks, sends one action, looks again, at a pace of its own.

    with Station() as station, station.drive("robot_configs/bridge_widowx.yaml") as arm:
        frame, state = arm.observe()
        arm.act(action)

The same rules hold as for the executor's episodes: one commander at a time, by a lease; every action passes the safety
envelope; the arm holds when actions stop coming; an old frame or a silent arm is an error. Nothing is recorded.
"""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType

import numpy as np
from rclpy.context import Context
from rclpy.executors import Executor

from gymnast_core.config import StationConfig
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import DataError, StationError
from gymnast_nodes.calls import in_executor
from gymnast_nodes.commander import Commander
from gymnast_nodes.lifecycle import StationNode
from gymnast_nodes.messages import image_to_frame
from gymnast_nodes.station_watch import StationWatch

READY_WAIT_S = 10.0
"""How long arm and camera may take to be heard, and the arm to say whom it obeys."""
PATIENCE_S = 1.0
"""Frames and arm states may be late by this much on a busy machine."""
POLL_S = 0.02


class _DrivingNode(StationNode):
    """The node behind it, in a client's context."""

    def __init__(self, station: StationConfig, namespace: str, context: Context) -> None:
        self.station = station
        super().__init__(f"gymnast_driver_{os.getpid()}", namespace=namespace, context=context)


class Driving:
    """The arm of a running station, commanded action by action; use it in a `with` block.

    executor: spins in another thread. Methods raise StationError with the reason where the arm may not be moved.
    """

    def __init__(self, station: StationConfig, namespace: str, context: Context, executor: Executor) -> None:
        self._node = _DrivingNode(station, namespace, context)
        self._executor = executor
        executor.add_node(self._node)
        self._commander = Commander(self._node)
        self._watch = StationWatch(self._node, self._commander)
        self._episode = f"driven-{os.getpid()}-{time.time_ns()}"
        self._step = 0

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """(frame (S, S, 3) uint8 RGB in observation size, measured state (7,) float32, see `Episode.states`), now.

        Raises: StationError where either is too old, or the arm may not be moved.
        """
        self._check()
        image = self._watch.camera.image
        if image is None:
            raise StationError("camera: no frame")
        size = self._node.station.camera.observation_size
        return resize_frame(image_to_frame(image, "camera frame"), size), self._watch.state

    def act(self, action: np.ndarray) -> None:
        """Send one action (7,), Bridge convention; it is not waited for. At most `arm.control_hz` a second are of use.

        Raises: DataError for another shape, or values that are not finite; StationError where the arm may not be moved,
        or has refused several actions in a row.
        """
        values = np.asarray(action, dtype=np.float32)
        if values.shape != (7,) or not np.isfinite(values).all():
            raise DataError(f"action: found {values.tolist()}, needed 7 finite numbers")
        self._check()
        self._commander.send(self._episode, self._step, values)
        self._step += 1

    def __enter__(self) -> Driving:
        """Raises: StationError when arm or camera are not ready, or somebody else commands the arm."""
        try:
            self._watch.begin()
            self._commander.begin()
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        self._watch.follow(self._episode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + READY_WAIT_S
        while (problem := self._watch.problem or self._commander.problem) or not self._watch.commanded:
            if time.monotonic() > end:
                raise StationError(problem or "arm: it does not say that this script commands it")
            time.sleep(POLL_S)

    def _check(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self._watch.overdue and time.monotonic() < end:
            time.sleep(POLL_S)
        self._watch.check()

    def _end(self) -> None:
        """Nobody commands the arm any more; it holds."""
        self._watch.end()
        self._commander.end()
        with contextlib.suppress(StationError):  # the executor has ended, and with it the node
            in_executor(self._node, self._leave)

    def _leave(self) -> None:
        """In the executor's thread, behind what `Commander.end` left there."""
        self._executor.remove_node(self._node)
        self._node.destroy_node()

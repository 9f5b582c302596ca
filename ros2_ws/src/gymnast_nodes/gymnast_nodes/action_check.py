"""Which actions are handed to the controller: fresh, in order, and of the one who commands the arm."""

from __future__ import annotations

import collections
import math
import time

from gymnast_msgs.msg import ArmLease, BridgeAction
from rclpy.node import Node

from gymnast_core.robot.lease import Lease
from gymnast_nodes.clocks import WALL
from gymnast_nodes.messages import to_seconds
from gymnast_nodes.qos import COMMAND_QOS

FUTURE_TOLERANCE_S = 0.5


class ActionCheck:
    """The stream of actions. timeout_s: an action older than this is stale, and a stream that pauses longer has ended.

    Times are of the steady clock, seconds.
    """

    def __init__(self, node: Node, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lease = Lease()
        self._last_at = -math.inf
        self._last_step: tuple[str, int, tuple[int, float]] | None = None
        self.refused: collections.Counter[str] = collections.Counter()
        """How many, by reason."""
        node.create_subscription(ArmLease, "arm/lease", self._on_lease, COMMAND_QOS)

    @property
    def holder(self) -> str:
        """Who commands the arm; empty: nobody."""
        return self._lease.holder(time.monotonic())

    def other(self, commander: str) -> str:
        """Who commands the arm, where that is somebody else."""
        return self._lease.other(commander, time.monotonic())

    @property
    def streaming(self) -> bool:
        """Whether the last action is so recent that the next one belongs to the same motion."""
        return time.monotonic() - self._last_at < self._timeout_s

    @property
    def ended(self) -> bool:
        """Whether actions came, and stopped."""
        return self._last_at > -math.inf and time.monotonic() - self._last_at > self._timeout_s

    def refusal(self, message: BridgeAction, age: float) -> str:
        """What is wrong with the action itself; empty where nothing is. age: of its stamp, seconds."""
        if age > self._timeout_s:
            return "stale"
        if age < -FUTURE_TOLERANCE_S:
            return "stamp_in_future"
        if self._last_step is not None:
            episode, step, place = self._last_step
            same = bool(message.episode_id) and message.episode_id == episode
            late = self.streaming and WALL.place(to_seconds(message.header.stamp)) <= place
            if (same and message.step <= step) or late:
                return "out_of_order"
        return ""

    def accepted(self, message: BridgeAction) -> None:
        """The action is executed."""
        self._lease.take(message.commander, time.monotonic())
        self._last_step = (message.episode_id, message.step, WALL.place(to_seconds(message.header.stamp)))
        self._last_at = time.monotonic()

    def pause(self) -> None:
        """The arm holds: what comes next is a motion of its own."""
        self._last_at = -math.inf

    def forget(self) -> None:
        """The arm is at its start again: steps are counted anew."""
        self.pause()
        self._last_step = None

    def _on_lease(self, message: ArmLease) -> None:
        """arm/lease: somebody commands the arm from now on, or no longer."""
        if message.release:
            self._lease.release(message.commander)
        else:
            self._lease.take(message.commander, time.monotonic())

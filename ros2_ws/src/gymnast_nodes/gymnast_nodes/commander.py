"""Who commands the arm: the name that actions carry, and the claims that keep the lease between them."""

from __future__ import annotations

import os
import socket
from typing import Any

import numpy as np
from gymnast_msgs.msg import ArmLease, BridgeAction
from rclpy.node import Node

from gymnast_nodes.calls import in_executor
from gymnast_nodes.lifecycle import StationNode
from gymnast_nodes.qos import COMMAND_QOS

CLAIM_PERIOD_S = 0.25
"""Claims are sent this often, so that several may get lost before the lease ends."""


def commander_name(node: Node) -> str:
    """Unique while the process runs, and says to people where it runs."""
    return f"{node.get_fully_qualified_name()} ({socket.gethostname()}, process {os.getpid()})"


class Commander:
    """A node that commands the arm for a while, also while it sends no action because it thinks.

    It publishes arm/action only from `begin` to `end`: whoever else does so meanwhile is a second commander, for which
    the arm does not move (gymnast_nodes.speakers). `begin`, `send` and `end` are for other threads than the executor's.
    """

    def __init__(self, node: StationNode) -> None:
        self.name = commander_name(node)
        self._node = node
        self._actions: Any = None
        self._claims = node.create_publisher(ArmLease, "arm/lease", COMMAND_QOS)
        self._timer = node.create_timer(CLAIM_PERIOD_S, self._claim)
        self._timer.cancel()

    def begin(self) -> None:
        """Ask for the lease, and keep it until `end`; arm/state says who has it.

        Raises: StationError when the node's executor does not get round to it.
        """
        if self._actions is None:
            self._actions = in_executor(
                self._node, lambda: self._node.create_publisher(BridgeAction, "arm/action", COMMAND_QOS)
            )
        self._claim()
        self._timer.reset()

    @property
    def problem(self) -> str:
        """Why an action would not reach everybody who listens; empty when it would."""
        heard = self._actions.get_subscription_count() if self._actions is not None else 0
        listeners = self._node.count_subscribers("arm/action")
        return "" if 0 < listeners <= heard else f"arm/action: {heard} of {listeners} listeners are connected"

    def send(self, episode_id: str, step: int, action: np.ndarray) -> BridgeAction:
        """Send one action (7,), between `begin` and `end`; returns the message, stamped now."""
        message = BridgeAction(episode_id=episode_id, step=step, gripper=float(np.clip(action[6], 0.0, 1.0)))
        message.commander = self.name
        message.translation = action[:3].astype(np.float32)
        message.rotation = action[3:6].astype(np.float32)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = f"{self._node.station.arm.driver_name[1:]}/base_link"
        self._actions.publish(message)
        return message

    def end(self) -> None:
        """Somebody else may command the arm."""
        actions, self._actions = self._actions, None
        if actions is not None and self._node.executor is not None:  # not waited for: the executor may wait for us
            self._node.executor.create_task(self._node.destroy_publisher, actions)
        self._timer.cancel()
        self._claims.publish(ArmLease(commander=self.name, release=True))

    def _claim(self) -> None:
        self._claims.publish(ArmLease(commander=self.name))

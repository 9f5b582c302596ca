"""The node that the vendor's API is built on. Nothing spins it before `robot_startup`, which is not stood in for: a
caller that gives its own node spins it itself."""

from __future__ import annotations

from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.task import Future


class InterbotixRobotNode(Node):
    """A plain node with log helpers and a wait that has no end."""

    def __init__(
        self, node_name: str = "interbotix_robot_manipulation", namespace: str | None = None, **kwargs: Any
    ) -> None:
        self.node_name = node_name
        self.namespace = namespace
        super().__init__(node_name=node_name, namespace=namespace, **kwargs)

    def wait_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """For ever, where `timeout_sec` is None."""
        rclpy.spin_until_future_complete(self, future, timeout_sec=timeout_sec)

    def logdebug(self, message: str, **kwargs: Any) -> None:
        self.get_logger().debug(message, **kwargs)

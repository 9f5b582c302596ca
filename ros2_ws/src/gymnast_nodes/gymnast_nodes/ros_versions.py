"""What differs between the ROS 2 distributions that gymnast runs on, and what is taken from inside of rclpy.

Humble's rclpy is 3.3, Jazzy's 7.1, Kilted's 9.1, Lyrical's 10.0. Everything else in this package imports from here:
where a distribution does something otherwise, this is the file to change (held by `tests/test_ros_distributions.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import EventHandler
except ImportError:  # Humble
    from rclpy.qos_event import QoSEventHandler as EventHandler

__all__ = ["EventHandler", "RCLError", "local_only", "raw_callback", "take_serialised"]

RCLError = rclpy_implementation.RCLError
"""What the C layer raises; rclpy has no public name for it."""


def raw_callback(take: Callable[[bytes, dict[str, Any] | None], None]) -> Callable[..., None]:
    """`take` as callback of a raw subscription: Humble's rclpy gives the message alone, later ones its info, too."""
    return take if hasattr(Subscription, "CallbackType") else lambda data: take(data, None)


def take_serialised(subscription: Any) -> tuple[bytes, dict[str, Any]] | None:
    """The oldest message that waits in a subscription's reader, serialised, with its info; None where none waits.

    To be called within `with subscription.handle:`.
    """
    return subscription.handle.take_message(subscription.msg_type, True)


def local_only() -> dict[str, str]:
    """The environment of processes that are discovered on this machine alone."""
    if os.environ.get("ROS_DISTRO") == "humble":
        return {"ROS_LOCALHOST_ONLY": "1"}
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}

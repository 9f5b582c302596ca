"""What differs between the rclpy of Humble, Jazzy and later distributions, in one place.

| | Humble | Jazzy and later |
|---|---|---|
| events of the middleware | `rclpy.qos_event.QoSEventHandler` | `rclpy.event_handler.EventHandler` |
| callback of a raw subscription | the message alone | also its info, where the callback takes two arguments |
| this host only | `ROS_LOCALHOST_ONLY=1` | `ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST` |

Tried on Jazzy (the ROS 2 wheels). What Humble needs is kept by the tests of this module alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import EventHandler
except ImportError:  # Humble
    from rclpy.qos_event import QoSEventHandler as EventHandler

__all__ = ["EventHandler", "raw_callback", "this_host_only"]


def raw_callback(take: Callable[[bytes, dict[str, Any] | None], None]) -> Callable[..., None]:
    """`take` as callback of a raw subscription."""
    return take if hasattr(Subscription, "CallbackType") else lambda data: take(data, None)


def this_host_only() -> dict[str, str]:
    """Environment variables of processes that speak with this host only."""
    if os.environ.get("ROS_DISTRO") == "humble":
        return {"ROS_LOCALHOST_ONLY": "1"}
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}

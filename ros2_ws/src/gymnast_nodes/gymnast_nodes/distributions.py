"""What differs between the rclpy of Humble, Jazzy and later distributions, in one place.

| | Humble | Jazzy and later |
|---|---|---|
| events of the middleware | `rclpy.qos_event.QoSEventHandler` | `rclpy.event_handler.EventHandler` |
| callback of a raw subscription | the message alone | also its info, where the callback takes two arguments |
| this host only | `ROS_LOCALHOST_ONLY=1` | `ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST` |

What is taken from inside of rclpy stands here, too: it is what a new distribution may change. The names that this
package imports from rclpy are in the branches humble, jazzy and rolling of its repository (December 2024).

Tried on Jazzy (the ROS 2 wheels). What Humble needs is kept by the tests of this module alone.
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

__all__ = ["EventHandler", "RCLError", "raw_callback", "take_serialised", "this_host_only"]

RCLError = rclpy_implementation.RCLError
"""What the C layer raises; rclpy has no public name for it."""


def raw_callback(take: Callable[[bytes, dict[str, Any] | None], None]) -> Callable[..., None]:
    """`take` as callback of a raw subscription."""
    return take if hasattr(Subscription, "CallbackType") else lambda data: take(data, None)


def take_serialised(subscription: Any) -> tuple[bytes, dict[str, Any]] | None:
    """The oldest message that waits in a subscription's reader, serialised, with its info; None where none waits.

    To be called within `with subscription.handle:`.
    """
    return subscription.handle.take_message(subscription.msg_type, True)


def this_host_only() -> dict[str, str]:
    """Environment variables of processes that speak with this host only."""
    if os.environ.get("ROS_DISTRO") == "humble":
        return {"ROS_LOCALHOST_ONLY": "1"}
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}

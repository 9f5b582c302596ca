"""Readers of fast topics that wake nobody: only what is wanted is fetched."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from gymnast_nodes.distributions import take_serialised

HEADER_BYTES = 12
"""Shortest message with a header: four bytes of encapsulation and a stamp."""


class RateMeter:
    """Rate over the last two seconds and age of the last event, on the monotonic clock."""

    def __init__(self, window_s: float = 2.0) -> None:
        self._window = window_s
        self._times: collections.deque[float] = collections.deque()

    def tick(self, count: int = 1) -> None:
        """`count` events, just now."""
        now = time.monotonic()
        self._times.extend([now] * count)
        while self._times[0] < now - self._window:
            self._times.popleft()

    @property
    def rate(self) -> float:
        """Events a second."""
        now = time.monotonic()
        recent = [t for t in tuple(self._times) if t >= now - self._window]  # another thread may tick meanwhile
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    @property
    def age(self) -> float:
        """Seconds since the last event; infinite before the first."""
        times = tuple(self._times)
        return time.monotonic() - times[-1] if times else float("inf")


class GatedGroup(CallbackGroup):
    """Callbacks that run only while `is_open`; a shut one's messages wait in their reader and wake nobody."""

    def __init__(self, is_open: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._is_open = is_open

    def can_execute(self, entity: Any) -> bool:
        return self._is_open()

    def beginning_execution(self, entity: Any) -> bool:
        return self._is_open()

    def ending_execution(self, entity: Any) -> None:
        return


def take_waiting(subscription: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """The serialised messages, with their infos, that wait in the reader of a subscription."""
    taken: list[tuple[bytes, dict[str, Any]]] = []
    with subscription.handle:
        for _ in range(subscription.qos_profile.depth):  # a reader that never ends must not hold us here
            message = take_serialised(subscription)
            if message is None:
                break
            taken.append(message)
    return taken


class LatestReader:
    """The newest message of a topic, fetched when it is wanted; messages with a header only."""

    def __init__(self, node: Node, kind: Any, topic: str, qos: QoSProfile) -> None:
        self._node, self._kind = node, kind
        self._subscription = node.create_subscription(
            kind, topic, lambda _: None, qos, callback_group=GatedGroup(), raw=True
        )

    def take(self) -> tuple[Any | None, int]:
        """The newest message since the last call (None: there was none) and how many came."""
        messages = [data for data, _ in take_waiting(self._subscription) if len(data) >= HEADER_BYTES]
        return (deserialize_message(messages[-1], self._kind) if messages else None), len(messages)

    def end(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)

    def take_all(self) -> list[Any]:
        """The messages since the last call, oldest first."""
        messages = [data for data, _ in take_waiting(self._subscription) if len(data) >= HEADER_BYTES]
        return [deserialize_message(data, self._kind) for data in messages]

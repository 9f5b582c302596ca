"""Whether the node at the other end of a long action is still the one that took the goal.

A server that was killed answers nothing, ever; its heartbeat is what tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gymnast_msgs.msg import NodeStatus
from rclpy.node import Node

from gymnast_nodes.lifecycle import HEARTBEAT_TOPIC
from gymnast_nodes.qos import COMMAND_QOS

SILENT_S = 3.0
TICK_S = 0.25


class Attention:
    """A clock of how long this process has listened, in seconds: it stands still while the node's executor takes no
    messages. Silence is measured by it, since whoever was held up himself (a busy machine, SIGSTOP) has heard nobody.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seconds, self._ticked_at = 0.0, time.monotonic()
        self._timer = node.create_timer(TICK_S, self._tick)

    @property
    def now(self) -> float:
        """Seconds; safe to ask from any thread."""
        return self._seconds + min(time.monotonic() - self._ticked_at, 2 * TICK_S)

    def end(self) -> None:
        """Stand still from now on; in the node's executor."""
        self._node.destroy_timer(self._timer)

    def _tick(self) -> None:
        self._seconds, self._ticked_at = self.now, time.monotonic()


@dataclass
class _Seen:
    at: float  # by the listener's attention
    state: str
    process: str
    generation: int = 0


class Liveness:
    """Listens to the heartbeats of a station's managed nodes."""

    def __init__(self, node: Node) -> None:
        self._seen: dict[str, _Seen] = {}
        self._node = node
        self._attention = Attention(node)
        self._subscription = node.create_subscription(NodeStatus, HEARTBEAT_TOPIC, self._on_beat, COMMAND_QOS)

    def states(self) -> dict[str, str]:
        """Lifecycle state of every node heard lately, by name."""
        now = self._attention.now
        return {name: seen.state for name, seen in list(self._seen.items()) if now - seen.at < SILENT_S}

    def watch(self, name: str) -> Callable[[], bool]:
        """A question to ask again and again: does `name` live, and was it active ever since this call?

        Before its first heartbeat was heard, the node counts as alive. Who has left the graph hears nobody live.
        """
        began = self._attention.now
        first = self._seen.get(name)
        generation = first.generation if first else 0

        def alive() -> bool:
            if not self._node.context.ok():
                return False
            seen = self._seen.get(name)
            if seen is None:
                return self._attention.now - began < SILENT_S
            return seen.generation == generation and self._attention.now - seen.at < SILENT_S

        return alive

    def end(self) -> None:
        """Listen no more; in the node's executor, once nothing is watched."""
        self._node.destroy_subscription(self._subscription)
        self._attention.end()

    def _on_beat(self, message: NodeStatus) -> None:
        before = self._seen.get(message.name)
        generation = before.generation if before else 0
        if before is not None and before.state == "active":
            # A successor may be active before its first beat is heard: its process tells it from the one that died.
            generation += message.state != "active" or message.process != before.process
        self._seen[message.name] = _Seen(self._attention.now, message.state, message.process, generation)

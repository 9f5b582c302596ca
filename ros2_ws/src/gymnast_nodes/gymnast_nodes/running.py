"""The main of every node: build it, spin it, end it.

Every node spins in a single-threaded executor: at 100 Hz of joint states rclpy's multi-threaded one costs four times
the processor time. Nothing may therefore block a callback; a call of the driver inside a lifecycle transition goes
through `ServiceCaller`, which spins a hidden node of its own.

Waking up is what an idle node pays for: rclpy builds its wait set anew each time. Fast topics of which only the newest
message matters are therefore read by `reading.LatestReader`, which wakes nobody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from gymnast_core.errors import GymnastError
from gymnast_core.ros_logs import settle_log_folder
from gymnast_nodes.dead_ports import avoided_dead_ports
from gymnast_nodes.distributions import EventHandler
from gymnast_nodes.leaving import leave_at_the_end
from gymnast_nodes.lifecycle import ManagedNode

EVENTS_PERIOD_S = 1.0
"""How often the middleware is asked for complaints (a peer with other QoS)."""

NodeType = TypeVar("NodeType", bound=Node)


class NodeExecutor(SingleThreadedExecutor):
    """One thread; the middleware's events (two or more for each publisher and subscription) are waited for in one
    round a second only: in every wait set they are a good part of what waking up costs."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._events_at = 0.0
        self._with_events = True

    def spin_once(self, timeout_sec: float | None = None) -> None:
        now = time.monotonic()
        self._with_events = now >= self._events_at
        if self._with_events:
            self._events_at = now + EVENTS_PERIOD_S
        super().spin_once(timeout_sec)

    def can_execute(self, entity: Any) -> bool:
        return (self._with_events or not isinstance(entity, EventHandler)) and super().can_execute(entity)


def run_node(build: Callable[[], NodeType], args: Sequence[str] | None = None, urgent: bool = False) -> int:
    """Main of every node: build it, spin until SIGINT or SIGTERM, let it stop, and return the exit code.

    A GymnastError while building is one line on standard error and exit code 2. A node may end itself by setting
    its attribute `exit_code` to a number. urgent: ask for a higher priority, where the user may have it: the arm's
    nodes must not wait for a training run on the same machine.
    """
    if urgent:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        if told := settle_log_folder():
            print(told, file=sys.stderr, flush=True)
    except GymnastError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    rclpy.init(args=args, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    asked: list[int] = []  # no threading.Event: its lock hangs where a second signal interrupts the first's handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    executor = NodeExecutor()
    try:
        with avoided_dead_ports():
            node = build()
    except GymnastError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 2
    executor.add_node(node)
    try:
        while not asked and rclpy.ok() and getattr(node, "exit_code", None) is None:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        # `ros2 launch` asks twice, and the interpreter's own end would die of the second time.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # The node's own stop must still be able to publish (the arm's hold), so the context goes down after it.
        stop = getattr(node, "stop", None)
        if stop is not None:
            stop()
        if isinstance(node, ManagedNode):
            node.end_heartbeat()
        executor.shutdown(timeout_sec=0.5)
        code = int(getattr(node, "exit_code", None) or 0)
        leave_at_the_end(node, code)
    return code

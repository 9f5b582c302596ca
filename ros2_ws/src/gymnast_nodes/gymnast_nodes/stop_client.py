"""The ROS side of `gymnast stop` and `gymnast rearm`: one request, one line, an exit code."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from gymnast_msgs.srv import EmergencyStop, Rearm
from rclpy.node import Node

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.robot.stop_latch import StopLatch
from gymnast_core.ros_logs import settle_log_folder
from gymnast_nodes.dead_ports import avoided_dead_ports, keep_standard_output
from gymnast_nodes.leaving import leave_at_the_end

FIND_S = 4.0
"""How long a server is looked for: a machine under load needs a second or two to discover it."""
ANSWER_S = {"stop": 2.0, "rearm": 20.0}
"""Re-arming checks nine motors first."""


def join(namespace: str) -> Node:
    """A node in the graph."""
    with contextlib.suppress(ConfigError):  # a stop is tried in any case
        settle_log_folder()
    keep_standard_output()
    rclpy.init(args=[])
    with avoided_dead_ports():
        return rclpy.create_node("gymnast_stop", namespace=namespace or None)


def ask(node: Node, kind: Any, name: str, request: Any, answer_s: float) -> Any | None:
    """The first answer to one request; None when nobody gives any."""
    client = node.create_client(kind, name)
    if not client.wait_for_service(FIND_S):
        return None
    # A node that was killed counts as there for some seconds, and its request is lost: ask whoever came since.
    end = time.monotonic() + answer_s
    while time.monotonic() < end:
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=min(answer_s, max(0.5, answer_s / 2)))
        if future.done():
            return future.result()
    return None


def stop(node: Node, words: dict[str, Any]) -> int:
    """0 when the stop is latched on a disk."""
    request = EmergencyStop.Request(reason=words["reason"])
    answer = ask(node, EmergencyStop, "arm/emergency_stop", request, ANSWER_S["stop"])
    here = f"latched in {', '.join(words['paths'])}" if not words["problem"] else words["problem"]
    if answer is None:
        print(f"{here}; nobody answers arm/emergency_stop: the arm is not known to hold")
        return 1 if words["problem"] else 0
    print(f"stopped: {answer.message}")
    return 0 if answer.latched or not words["problem"] else 1


def rearm(node: Node, words: dict[str, Any]) -> int:
    """0 when the arm is armed.

    The arm node releases the stop on its machine's disk; what `gymnast stop` latched on this one is released here.
    """
    latches = [StopLatch(Path(path)) for path in words["paths"]]
    seen = [latch.mark() for latch in latches]
    answer = ask(node, Rearm, "arm/rearm", Rearm.Request(confirm=True), ANSWER_S["rearm"])
    if answer is None:
        kept = "".join(f"; the stop stays latched in {latch.path}" for latch in latches if latch.is_set)
        print(f"nobody answers arm/rearm: is the arm node up?{kept}")
        return 1
    told = answer.message
    for latch, mark in zip(latches, seen):
        if not answer.success or mark is None or latch.mark() != mark:
            continue
        try:
            latch.clear()
            told += f"; the stop latched in {latch.path} is released, too"
        except DataError as error:
            told += f"; {error}"
    print(told)
    return 0 if answer.success else 1


def main() -> int:
    words = json.loads(sys.argv[1])
    node = join(words["namespace"])
    code = stop(node, words) if words["verb"] == "stop" else rearm(node, words)
    sys.stdout.flush()
    leave_at_the_end(node, code)
    return code


if __name__ == "__main__":
    sys.exit(main())

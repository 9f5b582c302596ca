"""The ROS side of `gymnast status`, and of `Station.status`: one look at a graph."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gymnast_msgs.msg import ArmState, GraphStatus
from rclpy.node import Node

from gymnast_core.robot.stop_latch import StopLatch, known_stop_files
from gymnast_core.ros_logs import settle_log_folder
from gymnast_core.status import MODES, ArmNow, NodeNow, StationStatus
from gymnast_nodes.dead_ports import avoided_dead_ports, keep_standard_output
from gymnast_nodes.leaving import leave_at_the_end
from gymnast_nodes.qos import COMMAND_QOS, LATCHED_QOS

SILENT_S = 2.0
"""arm/state comes 25 times a second; what is older than this is not how the arm is now."""


class Look:
    """Hears what a station says of itself, from its construction to `end`.

    arm: False leaves arm/state, which comes 25 times a second, to somebody else.
    """

    def __init__(self, node: Node, arm: bool = True) -> None:
        self._node = node
        self._graph: GraphStatus | None = None
        self._arm: ArmState | None = None
        self._arm_heard_at = 0.0
        self._problems: dict[str, str] = {}
        self.values: dict[str, dict[str, str]] = {}
        """What /diagnostics last said, by the name of the report."""
        self._heard = [
            node.create_subscription(GraphStatus, "supervisor/status", self._on_graph, LATCHED_QOS),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10),
        ]
        if arm:
            self._heard.append(node.create_subscription(ArmState, "arm/state", self._on_arm, COMMAND_QOS))

    def problem(self, name: str) -> str:
        """What a report of /diagnostics warns of; empty where it does not."""
        return self._problems.get(name, "")

    def status(self) -> StationStatus:
        """What was heard up to now."""
        silent = time.monotonic() - self._arm_heard_at > SILENT_S
        latches = [StopLatch(path) for path in known_stop_files()]
        return StationStatus(
            nodes=tuple(
                NodeNow(node.name, node.state, node.detail, int(node.restarts))
                for node in (self._graph.nodes if self._graph is not None else ())
            ),
            arm=None if self._arm is None or silent else arm_now(self._arm),
            stops=tuple(f"{latch.path}: {latch.reason}" for latch in latches if latch.is_set),
            problems=tuple(f"{name}: {words}" for name, words in sorted(self._problems.items())),
        )

    def end(self) -> None:
        """Listen no more."""
        for subscription in self._heard:
            self._node.destroy_subscription(subscription)

    def _on_graph(self, message: GraphStatus) -> None:
        self._graph = message

    def _on_arm(self, message: ArmState) -> None:
        self._arm, self._arm_heard_at = message, time.monotonic()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for one in message.status:
            self.values[one.name] = {value.key: value.value for value in one.values}
            if one.level == DiagnosticStatus.OK:
                self._problems.pop(one.name, None)
            else:
                self._problems[one.name] = " ".join(one.message.split())


def listen(node: Node, seconds: float, wait: Callable[[float], None]) -> StationStatus:
    """The status of the station in `node`'s namespace, after `seconds` of listening. wait: spins the node for so long,
    or sleeps where another thread spins it."""
    look = Look(node)
    try:
        wait(seconds)
        return look.status()
    finally:
        look.end()


def arm_now(message: ArmState) -> ArmNow:
    """A message of arm/state for people."""
    loads = [float(value) for value in message.load if math.isfinite(value)]
    place = message.pose.position
    return ArmNow(
        mode=MODES[message.mode] if message.mode < len(MODES) else f"mode {message.mode}",
        detail=message.detail,
        position=(place.x, place.y, place.z),
        gripper=float(message.gripper),
        commander=message.commander,
        load=max(loads, default=None),
        holds=int(message.holds),
    )


def main() -> int:
    words = json.loads(sys.argv[1])
    if told := settle_log_folder():
        print(told, file=sys.stderr)
    keep_standard_output()
    rclpy.init(args=[])
    with avoided_dead_ports():
        node = rclpy.create_node("gymnast_status", namespace=words["namespace"] or None)

    def spin(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=left)

    found = listen(node, words["seconds"], spin)
    if words["json"]:
        print(json.dumps({"well": found.well, **dataclasses.asdict(found)}), flush=True)
    else:
        print("\n".join(found.lines()), flush=True)
    code = 0 if found.well else 1
    leave_at_the_end(node, code)
    return code


if __name__ == "__main__":
    sys.exit(main())

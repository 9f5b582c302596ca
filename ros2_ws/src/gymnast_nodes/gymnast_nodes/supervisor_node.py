"""The supervisor: brings the managed nodes to active in order, notices when one dies, and brings it back.

Like Nav2's lifecycle manager, with a heartbeat instead of a bond: every managed node says its state five times a
second on supervisor/heartbeat. A node that falls silent is down; when it is back (respawned by `ros2 launch` or
`gymnast up`) it is configured and activated again. A node that somebody else deactivated (`ros2 lifecycle set`) stays
as it is until that somebody activates it. The state of all of them is latched on supervisor/status.

Beside another graph of the same names nothing is brought up.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.msg import GraphStatus, NodeStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.utilities import get_rmw_implementation_identifier
from std_srvs.srv import Trigger

from gymnast_core.errors import StationError
from gymnast_core.graph import MANAGED
from gymnast_nodes import FOREIGN_PROFILE
from gymnast_nodes.calls import sleep
from gymnast_nodes.clocks import WALL
from gymnast_nodes.deaf import end_process
from gymnast_nodes.driver_link import absent_driver
from gymnast_nodes.lifecycle import FINALIZED, DiagnosticReport, Diagnostics, InterleavingNode
from gymnast_nodes.liveness import Attention
from gymnast_nodes.parameters import parameter, station_parameter
from gymnast_nodes.qos import COMMAND_QOS, LATCHED_QOS
from gymnast_nodes.running import run_node
from gymnast_nodes.speakers import Speakers, StationSeats

ARM_DRIVERS = ("arm", "executor")
"""Nodes whose death may leave the arm in mid-motion."""
OTHERS_S = 1.0
"""Another graph of the same names is discovered, and heard, within this."""
DISCOVERED_S = 5.0
"""On a busy machine it is discovered within this."""
RETRY_S = 2.0
LOST_S = 5.0
"""A node that still is in its old state this long after it was asked for a transition did not hear it."""
DEAF = 3
"""A node with time to hear that has not taken up this many requests in a row hears nothing."""


@dataclass
class Managed:
    """What is known of one managed node."""

    name: str
    client: Any
    state: str = "down"
    detail: str = "not seen yet"
    process: str = ""
    restarts: int = 0
    beat_at: float = 0.0
    heard_at: float = 0.0  # the same beat, by the supervisor's attention
    seen: bool = False
    wanted_before: bool = False  # it was active once: an unconfigured state now means that it was restarted
    busy: bool = False  # a transition of ours is under way
    unheard: int = 0  # requests in a row that it did not take up
    set_aside: bool = False  # deactivated by somebody else, whose business it is to activate it again


class _WentDownError(StationError):
    """A node fell silent in a transition: nothing was refused."""


class SupervisorNode(InterleavingNode):
    """Ordered start, liveness and recovery of the managed nodes."""

    def __init__(self) -> None:
        super().__init__("supervisor")
        _, self._station = station_parameter(self)
        names = parameter(self, "managed_nodes", list(MANAGED), "names of the managed nodes, in start order")
        self._beat_timeout = parameter(
            self, "heartbeat_timeout_s", 2.0, "silence after which a node counts as down, seconds", 0.3, 30.0
        )
        self._start_timeout = parameter(
            self, "start_timeout_s", 180.0, "how long a process may take until its first heartbeat", 1.0, 3600.0
        )
        self._driver_starts = self._station.simulation is not None or parameter(
            self, "driver_starts", False, "the arm's driver starts together with the graph"
        )
        loading = "how long one transition may take (loading a large policy)"
        self._transition_timeout = parameter(self, "transition_timeout_s", 300.0, loading, 1.0, 7200.0)
        self.exit_code: int | None = None
        self._nodes = {
            name: Managed(name, self.create_client(ChangeState, f"{name}/change_state")) for name in names if name
        }
        self._started = False
        self._published: tuple[Any, ...] = ()
        self._hold_client = self.create_client(Trigger, "watchdog/hold")
        self._status = self.create_publisher(GraphStatus, "supervisor/status", LATCHED_QOS)
        self._me = f"{socket.gethostname()}, process {os.getpid()}"
        self._other = ""
        self._attention = Attention(self)
        self._speakers = Speakers(self, StationSeats(self, self._station).managed(names))
        self.create_subscription(GraphStatus, "supervisor/status", self._on_status, LATCHED_QOS)
        self.create_subscription(NodeStatus, "supervisor/heartbeat", self._on_heartbeat, COMMAND_QOS)
        self._diagnostics = Diagnostics(self, "graph")
        self._diagnostics.add("graph", self._report)
        self.create_timer(0.1, self._watch)
        self._start_timer = self.create_timer(0.0, self._bring_up)
        if FOREIGN_PROFILE and get_rmw_implementation_identifier() == "rmw_fastrtps_cpp":
            self.get_logger().info(
                f"Fast DDS profile {FOREIGN_PROFILE} is used instead of gymnast's: see docs/how-to/real_station.md"
            )

    def _on_heartbeat(self, message: NodeStatus) -> None:
        node = self._nodes.get(message.name)
        if node is None:
            return
        returned = node.seen and node.state in ("down", FINALIZED)
        node.beat_at, node.heard_at = time.monotonic(), self._attention.now
        restarted = node.wanted_before and not node.busy and message.state == "unconfigured"
        if message.state == FINALIZED:
            if node.state != FINALIZED:
                self.get_logger().info(f"{node.name} was stopped")
        elif restarted and node.state != "unconfigured":
            node.restarts += 1
            self.get_logger().warning(f"{node.name} was restarted")
        elif returned:
            self.get_logger().info(f"{node.name} speaks again")
        if message.state != "inactive":
            node.set_aside = False
        elif node.state in ("active", "deactivating") and not node.busy:
            node.set_aside = True
            self.get_logger().warning(f"{node.name} was deactivated; it stays so until it is activated by hand")
        node.seen = True
        node.unheard = node.unheard if message.process == node.process else 0
        node.process = message.process
        node.state = message.state
        node.detail = message.detail or ("deactivated by hand" if node.set_aside else "")

    def _on_status(self, message: GraphStatus) -> None:
        """Another supervisor of the same nodes is another graph: two arms would hear one operator, or one arm two."""
        there = message.header.frame_id
        same = [node.name for node in message.nodes if node.name in self._nodes]
        if there in ("", self._me) or not same or self._other:
            return
        self._other = (
            f"another graph has nodes of the same names ({', '.join(same)}), on {there}; stop it, or choose another "
            "ROS_DOMAIN_ID or --namespace"
        )
        if self._started:
            self.get_logger().error(self._other)

    def _others(self) -> str:
        """Who else has our nodes' names, in one line."""
        if self._other and self.count_publishers("supervisor/status") < 2:
            self.get_logger().info("the other graph is gone")
            self._other = ""
        return self._other or self._speakers.look()

    def _watch(self) -> None:
        """Mark silent nodes, recover returned ones, publish what changed."""
        now = self._attention.now
        for node in self._nodes.values():
            if node.seen and node.state not in ("down", FINALIZED) and now - node.heard_at > self._beat_timeout:
                node.state, node.detail = "down", "no heartbeat; waiting for it to be started again"
                self.get_logger().error(f"{node.name} is down")
                if node.name in ARM_DRIVERS and self._hold_client.service_is_ready():
                    self._hold_client.call_async(Trigger.Request())
            elif (
                self._started
                and not node.busy
                and node.seen
                and not node.set_aside
                and node.state in ("unconfigured", "inactive")
            ):
                node.busy = True
                self.executor.create_task(self._recover, node)
        if moved := WALL.told():
            self.get_logger().warning(moved)
        self._publish_changes()

    async def _bring_up(self) -> None:
        self._start_timer.cancel()
        try:
            await sleep(self, OTHERS_S)
            await self._wait_hardware()
        except StationError as error:
            self.get_logger().error(f"cannot bring the graph up: {error}")
            self.exit_code = 1
            return
        for node in self._nodes.values():
            try:
                await self._wait_first_beat(node)
                if self._other:
                    raise StationError(self._other)
                node.busy = True
                await self._first_activation(node)
            except StationError as error:
                self.get_logger().error(f"cannot bring the graph up: {error}")
                self._publish_changes()
                self.exit_code = 1
                return
            finally:
                node.busy = False
        self._started = True
        self.get_logger().info(f"all {len(self._nodes)} managed nodes are active")

    async def _wait_hardware(self) -> None:
        """A driver that starts beside the nodes, as the simulated one does, gets its time; others are there before.

        Raises: StationError naming all that is absent.
        """
        arm, camera = self._station.arm, self._station.camera
        timeout = self._start_timeout if self._driver_starts else arm.driver_timeout_s
        end = time.monotonic() + timeout
        told = self._station.simulation is not None
        while True:
            absent = []
            service = f"{arm.driver_name}/get_robot_info"
            if "arm" in self._nodes and service not in dict(self.get_service_names_and_types()):
                absent.append(absent_driver(arm))
            if "camera" in self._nodes and camera.source == "topic" and not self.count_publishers(camera.topic):
                absent.append(
                    f"no camera: nobody publishes {camera.topic}; start the camera's driver, or correct camera.topic"
                )
            if not absent:
                return
            if time.monotonic() > end:
                raise StationError(f"{'; '.join(absent)} (waited {timeout:g} s)")
            if not told:
                told = True
                self.get_logger().info(
                    f"waiting up to {timeout:g} s for the drivers of the arm ({service}) and of the camera"
                )
            await sleep(self, 0.1)

    async def _wait_first_beat(self, node: Managed) -> None:
        end = time.monotonic() + self._start_timeout
        while not node.seen:
            if time.monotonic() > end:
                raise StationError(f"{node.name} did not start within {self._start_timeout:g} s; see its output above")
            await sleep(self, 0.1)

    async def _first_activation(self, node: Managed) -> None:
        """A refusal ends the start at once; a node that falls silent (a crowded machine, a respawn) gets its time."""
        end = time.monotonic() + self._start_timeout
        while True:
            try:
                return await self._to_active(node)
            except _WentDownError:
                if time.monotonic() > end:
                    raise
                await sleep(self, 0.5)

    async def _recover(self, node: Managed) -> None:
        try:
            await self._to_active(node)
            self.get_logger().info(f"{node.name} is active again")
        except StationError as error:
            self.get_logger().error(f"{error}; trying again")
            await sleep(self, RETRY_S)
        finally:
            node.busy = False

    async def _to_active(self, node: Managed) -> None:
        """Raises: StationError with the node's own reason when it cannot be brought to active."""
        if node.state == "unconfigured":
            await self._change(node, Transition.TRANSITION_CONFIGURE, "inactive", "configure")
        if node.state == "inactive":
            await self._change(node, Transition.TRANSITION_ACTIVATE, "active", "activate")
        if node.state != "active":
            raise _WentDownError(f"{node.name} is {node.state}")
        node.wanted_before = True

    async def _change(self, node: Managed, transition: int, goal: str, verb: str) -> None:
        """Ask for one transition; the heartbeat decides whether it happened, since an answer can get lost."""
        end = time.monotonic() + self._transition_timeout
        while not node.client.service_is_ready() and time.monotonic() < end and node.state != "down":
            await sleep(self, 0.05)
        request = ChangeState.Request(transition=Transition(id=transition))
        answer = node.client.call_async(request)
        before, asked_at = node.state, time.monotonic()
        refused_at: float | None = None
        while node.state != goal:
            now = time.monotonic()
            if node.state in ("down", FINALIZED):
                raise _WentDownError(f"{node.name} went down while it was to {verb}")
            if answer.done() and not answer.result().success and refused_at is None:
                refused_at = now
            if now - asked_at > LOST_S and node.state == before and not answer.done():
                node.client.remove_pending_request(answer)
                raise self._not_heard(node, verb)
            # The next heartbeat carries the reason.
            if refused_at is not None and ((node.detail and node.beat_at > refused_at) or now - refused_at > 1.0):
                raise StationError(f"{node.name} cannot {verb}: {node.detail or await self._unsaid(node)}")
            if now > end:
                raise StationError(f"{node.name} did not {verb} within {self._transition_timeout:g} s")
            await sleep(self, 0.05)
        node.unheard = 0

    async def _unsaid(self, node: Managed) -> str:
        """Why a node refused without a reason. The request went to everyone of that name: another graph's node, which
        is in another state, may have refused it, and a busy machine discovers that graph late."""
        end = time.monotonic() + DISCOVERED_S
        while not (others := self._others()) and time.monotonic() < end:
            await sleep(self, 0.1)
        return others or node.detail or "see its log"

    def _not_heard(self, node: Managed, verb: str) -> _WentDownError:
        """What to say of a request that was not taken up. A node that hears nothing although its executor turns (its
        detail would say otherwise) is ended, and started again by whoever started it."""
        node.unheard += 1
        told = f"{node.name} did not take up the request to {verb}"
        if node.unheard >= DEAF and not node.detail and end_process(node.name, node.process):
            return _WentDownError(f"{told}: it hears nothing, and its process was ended")
        return _WentDownError(told)

    def _publish_changes(self) -> None:
        current = tuple((n.name, n.state, n.restarts, n.detail, n.process) for n in self._nodes.values())
        if current == self._published:
            return
        self._published = current
        message = GraphStatus()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._me
        message.nodes = [NodeStatus(name=a, state=b, restarts=c, detail=d, process=e) for a, b, c, d, e in current]
        message.all_active = self._all_active
        self._status.publish(message)

    @property
    def _all_active(self) -> bool:
        return all(node.state == "active" for node in self._nodes.values())

    def _report(self) -> DiagnosticReport:
        down = [f"{node.name} is {node.state}" for node in self._nodes.values() if node.state != "active"]
        if others := self._others():
            down.insert(0, others)
        level = DiagnosticStatus.OK if not down else DiagnosticStatus.ERROR
        values: dict[str, Any] = {name: node.state for name, node in self._nodes.items()}
        values["wall_clock_jumps"] = WALL.jumps
        return level, "; ".join(down) or "all active", values


def main() -> None:
    sys.exit(run_node(SupervisorNode))

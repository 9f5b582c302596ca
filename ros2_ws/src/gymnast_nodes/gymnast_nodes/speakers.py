"""Who speaks on the topics that the arm depends on, and who answers as the services: counted in the ROS graph.

The rule is `gymnast_core.robot.speakers`. Looking is cheap enough for every control step: publishers are counted (10
microseconds a topic), and named only when a count changes, or once a second, or while something is wrong.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier

from gymnast_core.config import StationConfig
from gymnast_core.errors import StationError
from gymnast_core.robot.speakers import UNKNOWN_S, RollCall, Seat, Speaker
from gymnast_nodes import FOREIGN_PROFILE

NAMES_PERIOD_S = 1.0
"""The counts can stay as they are while one node takes the place of another: names are read again this often."""
AGAIN_S = 0.1
"""The same while something is wrong, or a name may be on its way (`UNKNOWN_S` from the last change)."""
LINGER_S = 6.0
"""A killed node of ours stays in the graph for its lease of 5 s (fastdds.xml) ..."""
FOREIGN_LINGER_S = 21.0
"""... and for 20 s by the middleware's default."""
MODULES_SUFFIX = "_xs_modules"
"""Of the node that the vendor's Python API gets, after the arm node's name."""
FAST_DDS = b"\x01\x0f"
UNNAMED = "_NODE_NAME_UNKNOWN_"
BARE = "_CREATED_BY_BARE_DDS_APP_"
MAX_PID = 1 << 22
"""Linux gives no higher process id."""


REMEDY = "stop one of them, or give each station a ROS_DOMAIN_ID or a --namespace of its own"


def full_name(node: Node) -> str:
    """The node's name with its namespace."""
    return f"{node.get_namespace().rstrip('/')}/{node.get_name()}"


def linger_s() -> float:
    """How long a killed node may stay in the graph, seconds."""
    ours = get_rmw_implementation_identifier() == "rmw_fastrtps_cpp" and not FOREIGN_PROFILE
    return LINGER_S if ours else FOREIGN_LINGER_S


class StationSeats:
    """The seats of one station. node: one of its nodes, whose namespace they are in."""

    def __init__(self, node: Node, station: StationConfig) -> None:
        self._node = node
        self._driver = station.arm.driver_name
        self._station = station
        self.joint_states = Seat(f"{self._driver}/joint_states", free=1)

    def driver(self) -> list[Seat]:
        """What the arm's driver says, and what it hears."""
        ours = (self._own("arm"), self._own("watchdog"))
        played: tuple[str, ...] = ()
        if self._station.arm.driver == "xs_modules":  # the vendor's API speaks for the arm node, in a node of its own
            played = (self._own(f"arm{MODULES_SUFFIX}"),)
            ours = (*played, self._own("watchdog"))
        commands = [("joint_group", ours), ("joint_single", ours), ("joint_trajectory", played)]
        services = ("get_robot_info", "torque_enable", "set_operating_modes", "set_motor_registers")
        return [
            self.joint_states,
            *(Seat(f"{self._driver}/commands/{topic}", reserved=allowed) for topic, allowed in commands),
            *(Seat(f"{self._driver}/{name}", free=1, verb="serve") for name in services),
        ]

    def arm(self) -> list[Seat]:
        """All that the arm node acts on, or answers for."""
        arm = (self._own("arm"),)
        said = [Seat(self._own(name), reserved=arm) for name in ("arm/state", "arm/executed")]
        said.append(Seat(self._own("watchdog/fault"), reserved=(self._own("watchdog"),)))
        served = [Seat(self._own(name), reserved=arm, verb="serve") for name in ("arm/reset", "arm/rearm", "arm/rest")]
        served.append(Seat(self._own("arm/emergency_stop"), reserved=(*arm, self._own("watchdog")), verb="serve"))
        return [*self.driver(), Seat(self._own("arm/action"), free=1), self.camera(), *said, *served]

    def camera(self) -> Seat:
        """The camera's topic."""
        topic = self._node.resolve_topic_name(self._station.camera.topic)
        if self._station.camera.source == "device":
            return Seat(topic, reserved=(self._own("camera"),))
        return Seat(topic, free=1)

    def recorder(self) -> list[Seat]:
        """What an episode needs besides: a recorder that says it records."""
        return [Seat(self._own("recorder/status"), reserved=(self._own("recorder"),))]

    def managed(self, names: Sequence[str]) -> list[Seat]:
        """The nodes of these names, each of which beats its heart."""
        return [Seat(self._own("supervisor/heartbeat"), free=None, reserved=tuple(map(self._own, names)))]

    def _own(self, name: str) -> str:
        return f"{self._node.get_namespace().rstrip('/')}/{name}"


class Speakers:
    """Looks at who speaks, and says what is wrong with it."""

    def __init__(self, node: Node, seats: Sequence[Seat]) -> None:
        self._node = node
        self._seats = list(seats)
        self._roll_call = RollCall(full_name(node), linger_s())
        self._places = Places(node)
        self._counts: list[int] = []
        self._named_at = self._changed_at = 0.0
        self.problems: dict[str, str] = {}
        """By name of the topic or service, as of the last look."""

    @property
    def problem(self) -> str:
        """All that is wrong, in one line; empty where nothing is."""
        return "; ".join(self.problems.values())

    def look(self) -> str:
        """Look now, and return `problem`."""
        now = time.monotonic()
        counts = [self._node.count_publishers(seat.name) for seat in self._seats if seat.verb == "publish"]
        changed = counts != self._counts
        if changed:
            self._counts, self._changed_at = counts, now
        unsettled = bool(self.problems) or now - self._changed_at < UNKNOWN_S
        if changed or now - self._named_at > (AGAIN_S if unsettled else NAMES_PERIOD_S):
            self._named_at = now
            self.problems = self._call(now, with_places=False) and self._call(now, with_places=True)
        return self.problem

    def look_at(self, name: str) -> str:
        """Look now; what is wrong on one topic."""
        self.look()
        return self.problems.get(name, "")

    def wait_alone(self) -> None:
        """Wait for dead ones to leave the graph. Raises: StationError when somebody speaks who may not, and lives."""
        end = time.monotonic() + self._roll_call.linger_s
        while (problem := self.look()) and time.monotonic() < end:
            time.sleep(AGAIN_S)
        if problem:
            raise StationError(f"{problem}; {REMEDY}")

    def _call(self, now: float, with_places: bool) -> dict[str, str]:
        present = {seat.name: speakers(self._node, seat, self._places if with_places else None) for seat in self._seats}
        return self._roll_call.problems(self._seats, present, now)


def speakers(node: Node, seat: Seat, places: Places | None = None) -> list[Speaker]:
    """Who publishes the topic or serves the service of `seat`, with where they are if `places` is given."""
    if seat.verb == "publish":
        found = node.get_publishers_info_by_topic(seat.name)
    else:  # a service is a topic of requests and one of replies
        found = node.get_publishers_info_by_topic(f"rr{seat.name}Reply", no_mangle=True)
    return [_speaker(info, places) for info in found]


def _speaker(info: Any, places: Places | None) -> Speaker:
    source = bytes(info.endpoint_gid)[:12]  # of the process; the rest tells its endpoints apart
    if info.node_name == BARE:
        name = "a program that is no ROS node"
    else:
        name = "" if info.node_name == UNNAMED else f"{info.node_namespace.rstrip('/')}/{info.node_name}"
    return Speaker(name, source.hex(), places.of(source) if places else "")


class Places:
    """Where the processes behind the graph's endpoints are, as far as the middleware's ids tell.

    Fast DDS writes a machine's mark and the lower half of the process id into them; others write nothing of use.
    """

    def __init__(self, node: Node) -> None:
        self._own = next(
            (
                bytes(info.endpoint_gid)[:4]
                for info in node.get_publishers_info_by_topic("/parameter_events")
                if bytes(info.endpoint_gid)[:2] == FAST_DDS
                and int.from_bytes(bytes(info.endpoint_gid)[4:6], "little") == os.getpid() & 0xFFFF
            ),
            b"",
        )

    def of(self, source: bytes) -> str:
        """Where the process with these first bytes of an endpoint's id is, for people; empty where unknown."""
        if not self._own or source[:2] != FAST_DDS:
            return ""
        if source[:4] != self._own:
            return "on another machine"
        half = int.from_bytes(source[4:6], "little")
        fitting = [pid for pid in range(half, MAX_PID, 1 << 16) if os.path.exists(f"/proc/{pid}")]
        if len(fitting) > 1 or sys.platform != "linux":
            return "on this machine"
        return f"on this machine, process {fitting[0]}" if fitting else "on this machine, process gone"

"""Looks into the ROS graph before a station's own graph is started.

`python -m gymnast_nodes.look NODE...`: which of these nodes (full names) are there already. `--wait SECONDS NODE...`:
the same, with more patience for a busy machine. `--station FILE`: what is wrong with the driver and the camera that
are there. One line each, and a last line that says that it has looked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import rclpy
from rclpy.node import Node

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import StationError
from gymnast_core.graph import LOOKED
from gymnast_core.robot.speakers import Seat, Speaker
from gymnast_nodes.camera_topic import advice, type_problem
from gymnast_nodes.dead_ports import avoided_dead_ports, keep_standard_output
from gymnast_nodes.driver import Driver
from gymnast_nodes.driver_link import TopicsLink
from gymnast_nodes.leaving import leave_at_the_end
from gymnast_nodes.speakers import REMEDY, Places, Speakers, StationSeats, linger_s, speakers

DISCOVERY_S = 1.0
"""Nodes of this machine are discovered within some tenths of a second."""


def heard(node: Node, names: Sequence[str]) -> list[Speaker]:
    """Who of these is in the graph now: every node publishes its parameter events."""
    found = speakers(node, Seat("/parameter_events", free=None), Places(node))
    return [speaker for speaker in found if speaker.node in names]


def wait_for_any(node: Node, names: Sequence[str], seconds: float) -> None:
    """Return as soon as one of these is heard."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not heard(node, names):
        time.sleep(0.2)


def present(node: Node, names: Sequence[str]) -> list[Speaker]:
    """Who of these is in the graph, and stays.

    A killed node stays there for its lease, so who is there gets that time to leave.
    """
    end = time.monotonic() + linger_s()
    while True:
        there = heard(node, names)
        if not there or time.monotonic() > end:
            return there
        time.sleep(0.2)


def wrong_with(node: Node, station: StationConfig) -> list[str]:
    """What is wrong with a station's driver and camera as they are in the graph, and (`advice: `) could be better."""
    seats = [seat for seat in StationSeats(node, station).arm() if seat.free]
    looking = Speakers(node, seats)
    looking.look()
    found = [f"{problem}; {REMEDY}" for problem in looking.problems.values()]
    found += wrong_arm(node, station)
    if problem := type_problem(node, station.camera):
        found.append(problem)
    topic = station.camera.topic
    if node.count_publishers(topic) and (told := advice(node, topic)):
        found.append(f"advice: {topic}: {told}")
    return found


def wrong_arm(node: Node, station: StationConfig) -> list[str]:
    """What the driver that is there drives, where that is not the station's arm. Nothing is set, nothing moves."""
    service = f"{station.arm.driver_name}/get_robot_info"
    if service not in dict(node.get_service_names_and_types()):
        return []
    driver = Driver(node, station.arm, TopicsLink(node, station.arm, commands=False))
    found = []
    try:
        for check in (driver.check_arm, driver.check_links, driver.check_models):
            try:
                check()
            except StationError as error:
                found.append(str(error))
    finally:
        driver.close()
    return found


def main(arguments: Sequence[str]) -> int:
    station = load_config(StationConfig, arguments[1]) if arguments[:1] == ["--station"] else None
    keep_standard_output()
    rclpy.init()
    with avoided_dead_ports():
        node = Node("_look", enable_rosout=False, start_parameter_services=False)
    time.sleep(DISCOVERY_S)
    if arguments[:1] == ["--wait"]:
        patience, *arguments = arguments[1:]
        wait_for_any(node, arguments, float(patience) - DISCOVERY_S)
    found = wrong_with(node, station) if station else sorted({str(speaker) for speaker in present(node, arguments)})
    print("\n".join([*found, LOOKED]), flush=True)
    leave_at_the_end(node, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

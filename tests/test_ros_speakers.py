"""The arm does not move while somebody speaks who may not: each is named, nothing is sent, then it goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gymnast_msgs.msg import ArmState, BridgeAction, ExecutedAction
from gymnast_msgs.srv import ResetArm
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand, JointTrajectoryCommand
from interbotix_xs_msgs.srv import TorqueEnable
from sensor_msgs.msg import Image, JointState

from tests.domains import isolate
from tests.ros_tools import (
    SIMULATED,
    Client,
    Process,
    call_reset,
    process_of,
    running_graph,
    wait_active,
    wait_until,
)

ARM_ALONE = ("camera", "recorder", "adapter", "executor", "evaluator")


class Watched:
    """An arm's graph, what is sent to its driver, and actions."""

    def __init__(self, graph: Process, client: Client) -> None:
        self.graph, self.client = graph, client
        self.states = client.listen(ArmState, "/arm/state")
        self.executed = client.listen(ExecutedAction, "/arm/executed", 100)
        self.commands = client.listen(JointGroupCommand, "/wx250s/commands/joint_group", 100)
        self.step = 0

    def act(self) -> ExecutedAction:
        """One action that moves nothing; what came of it."""
        self.step += 1
        message = BridgeAction(episode_id="a", step=self.step, gripper=1.0)
        now = time.time()
        message.header.stamp.sec, message.header.stamp.nanosec = int(now), int(now % 1 * 1e9)
        before = len(self.executed)
        self.client.publish(BridgeAction, "/arm/action", message)
        wait_until(lambda: len(self.executed) > before, 5.0, "arm/executed")
        return self.executed[-1][1]

    def wait_moving(self) -> None:
        """Until actions are accepted."""
        wait_until(lambda: self.act().accepted, 15.0, "an accepted action")

    @property
    def detail(self) -> str:
        return self.states[-1][1].detail


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with running_graph(without=ARM_ALONE) as (graph, client):
        wait_active(client, graph)
        arm = Watched(graph, client)
        call_reset(client)
        yield arm


@contextmanager
def stranger(watched: Watched, name: str = "stranger") -> Iterator[Any]:
    """A node of somebody else in the same domain."""
    client = Client(watched.client.context.get_domain_id(), name)
    try:
        yield client.node
    finally:
        client.close()


OFFERS: dict[str, Callable[[Any], Any]] = {
    "/wx250s/joint_states": lambda node: node.create_publisher(JointState, "/wx250s/joint_states", 10),
    "/wx250s/commands/joint_group": lambda node: node.create_publisher(
        JointGroupCommand, "/wx250s/commands/joint_group", 10
    ),
    "/wx250s/commands/joint_single": lambda node: node.create_publisher(
        JointSingleCommand, "/wx250s/commands/joint_single", 10
    ),
    "/wx250s/commands/joint_trajectory": lambda node: node.create_publisher(
        JointTrajectoryCommand, "/wx250s/commands/joint_trajectory", 10
    ),
    "/wx250s/torque_enable": lambda node: node.create_service(TorqueEnable, "/wx250s/torque_enable", lambda q, a: a),
    "/arm/action": lambda node: node.create_publisher(BridgeAction, "/arm/action", 10),
    "/arm/state": lambda node: node.create_publisher(ArmState, "/arm/state", 10),
    "/arm/reset": lambda node: node.create_service(ResetArm, "/arm/reset", lambda q, a: a),
    "/camera/image_raw": lambda node: node.create_publisher(Image, "/camera/image_raw", 10),
}


@pytest.mark.parametrize("name", OFFERS)
def test_the_arm_does_not_move_while_a_stranger_speaks_and_goes_on_afterwards(watched: Watched, name: str) -> None:
    watched.wait_moving()
    with stranger(watched) as node:
        OFFERS[name](node)
        wait_until(lambda: "/stranger" in watched.detail, 10.0, "the stranger's name")
        time.sleep(0.1)  # what was sent before arrives
        sent = len(watched.commands)
        assert name in watched.detail and f"process {os.getpid()}" in watched.detail
        for _ in range(5):
            result = watched.act()
            assert not result.accepted and result.safety_events == ["other_speakers"]
        answer = watched.client.call(ResetArm, "/arm/reset", ResetArm.Request()) if name != "/arm/reset" else None
        assert answer is None or (not answer.success and "/stranger" in answer.message)
        assert len(watched.commands) == sent, "a command was sent"
    watched.wait_moving()


def test_a_strangers_joint_states_are_not_believed_even_once(watched: Watched) -> None:
    watched.wait_moving()
    place = watched.states[-1][1].bridge_pose
    began, sent = time.monotonic(), len(watched.commands)
    with stranger(watched, "joint_state_publisher") as node:
        publisher = node.create_publisher(JointState, "/wx250s/joint_states", 10)
        names = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "left_finger"]
        for _ in range(40):
            message = JointState(name=names, position=[0.0] * 6 + [0.026])
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
            watched.act()
            time.sleep(0.02)
        # A busy machine discovers who publishes before it discovers what he is called.
        wait_until(lambda: "/joint_state_publisher" in watched.detail, 10.0, "the stranger's name")
        assert "xs_sdk" in watched.detail
    watched.wait_moving()
    told = [state.bridge_pose for t, state in watched.states if t > began]
    assert (
        max(abs(float(a) - float(b)) for pose in told for a, b in zip(pose, place)) < 0.05
    )  # gravity; the stranger's is 0.2 away
    still = watched.commands[sent - 1][1].cmd
    assert max(abs(a - b) for _, m in watched.commands[sent:] for a, b in zip(m.cmd, still)) < 0.05


def test_listeners_and_other_names_disturb_nobody(watched: Watched) -> None:
    watched.wait_moving()
    with stranger(watched, "_ros2cli_echo") as node:
        for kind, topic in ((JointState, "/wx250s/joint_states"), (JointGroupCommand, "/wx250s/commands/joint_group")):
            node.create_subscription(kind, topic, lambda _: None, 10)
        node.create_publisher(BridgeAction, "/lab2/arm/action", 10)
        node.create_publisher(JointState, "/joint_states", 10)
        node.create_client(ResetArm, "/arm/reset")
        began, accepted = time.monotonic(), 0
        while accepted < 10 and time.monotonic() - began < 30.0:
            result = watched.act()
            accepted += result.accepted
            assert "other_speakers" not in result.safety_events  # a busy machine may refuse for lateness
            time.sleep(0.1)
        assert accepted == 10


def test_a_killed_watchdog_and_its_successor_stop_nobody(watched: Watched) -> None:
    watched.wait_moving()
    os.kill(process_of("watchdog", watched.graph), signal.SIGKILL)
    began, refused = time.monotonic(), []
    while time.monotonic() - began < 8.0:  # longer than the dead one stays in the graph
        result = watched.act()
        refused += [] if result.accepted else list(result.safety_events)
        time.sleep(0.1)
    assert "other_speakers" not in refused and "watching" in watched.graph.output.rsplit("starting it again", 1)[-1]


def test_a_second_graph_started_by_other_means_is_not_brought_up_and_the_first_says_so(watched: Watched) -> None:
    watched.wait_moving()
    domain = watched.client.context.get_domain_id()
    code = (
        "import sys; from gymnast_core.graph import station_graph; from gymnast_core.up import GraphRunner;"
        f"sys.exit(GraphRunner(station_graph({str(SIMULATED)!r}, '', {ARM_ALONE!r})).run())"
    )
    elsewhere = isolate(domain)
    second = Process([sys.executable, "-c", code], elsewhere)
    try:
        assert second.wait(60.0) == 1, second.output
        told = [line for line in second.lines if "cannot bring the graph up" in line]
        assert told and "process" in told[0], second.output
        assert "same names" in told[0] or " is in the ROS graph 2 times" in told[0], second.output
        assert "managed nodes are active" not in second.output
    finally:
        second.end()
    assert "another graph has nodes of the same names (arm)" in watched.graph.output
    assert "the arm does not move while others speak: " in watched.graph.output
    watched.wait_moving()

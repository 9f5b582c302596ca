"""The emergency stop works whoever is dead, and outlives every process until the arm is re-armed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from gymnast_msgs.msg import ArmState, BridgeAction, ExecutedAction
from gymnast_msgs.srv import EmergencyStop, Rearm
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from gymnast_core.config import ArmConfig, StationConfig, TaskConfig, load_config
from gymnast_core.errors import DataError
from gymnast_core.robot.stop_latch import StopLatch, stop_file
from gymnast_core.status import MODES
from gymnast_nodes.client import Station
from gymnast_nodes.stop_service import StopService
from tests.domains import free_domain, isolate
from tests.machine import HANG_S, allowed
from tests.ros_tools import (
    ARMED,
    ROOT,
    SIMULATED,
    Client,
    Process,
    process_of,
    start_graph,
    wait_active,
    wait_until,
)

WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator")
ANSWER_S = 0.1
TASKS = {"open": TaskConfig("open the drawer")}


class Lab:
    """A graph that can be ended and started again over one state folder, and a shell beside it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.domain = free_domain()
        self.graph: Process | None = None
        self.client: Client | None = None

    def up(self) -> Client:
        self.graph = start_graph(self.domain, SIMULATED, WITHOUT, self.state)
        self.client = Client(self.domain)
        self.client.listen(ArmState, "/arm/state")
        self.client.listen(JointState, "/wx250s/joint_states", 100)
        wait_active(self.client, self.graph)
        return self.client

    def down(self) -> None:
        if self.client is not None:
            self.client.close()
        if self.graph is not None:
            self.graph.end()
        self.client = self.graph = None

    def process(self, node: str) -> int:
        assert self.graph is not None
        return process_of(node, self.graph)

    def shell(self, *words: str, state: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A verb of the command line; with `state`, on a machine whose disk that is."""
        command = [sys.executable, "-m", "gymnast_core.cli", *words]
        environment = {**isolate(self.domain), "GYMNAST_STATE": str(state or self.state)}
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)

    @property
    def lines(self) -> list[str]:
        assert self.graph is not None
        return self.graph.lines

    @property
    def mode(self) -> int:
        assert self.client is not None
        state = self.client.latest("/arm/state")
        return -1 if state is None else int(state.mode)

    def wait_mode(self, *modes: int, timeout: float = 20.0) -> None:
        wait_until(lambda: self.mode in modes, timeout, f"one of modes {modes}")

    def turn(self) -> None:
        """One action that moves the arm."""
        assert self.client is not None
        message = BridgeAction(gripper=1.0)
        message.translation = [0.0, 0.03, 0.0]
        message.header.stamp = self.client.node.get_clock().now().to_msg()
        self.client.publish(BridgeAction, "/arm/action", message)

    def joints(self) -> np.ndarray:
        assert self.client is not None
        return np.array(self.client.latest("/wx250s/joint_states").position[:6])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "state")
    try:
        yield made
    finally:
        made.down()


def call_seconds(client: Client, kind: type, name: str, request: object) -> tuple[float, object]:
    """How long an answer took, the service being known already."""
    began = time.monotonic()
    answer = client.call(kind, name, request)
    return time.monotonic() - began, answer


def wait_latched(client: Client, answer: EmergencyStop.Response) -> None:
    """The stop is on the disk. A busy one confirms it later than the answer must come, and the answer then says so."""
    assert answer.success, answer.message
    again = EmergencyStop.Request(reason="is it on the disk?")
    wait_until(
        lambda: answer.latched or client.call(EmergencyStop, "/arm/emergency_stop", again).latched, 10.0, answer.message
    )


def test_a_stop_is_answered_with_the_arm_node_killed_and_outlives_the_graph(lab: Lab) -> None:
    client = lab.up()
    assert client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True)).success  # nothing to release
    wait_until(lambda: client.node.count_subscribers("/arm/action") > 0, 10.0, "the arm")
    delays = [call_seconds(client, Trigger, "/watchdog/hold", Trigger.Request())[0] for _ in range(5)]
    stopping = client.node.create_client(EmergencyStop, "/arm/emergency_stop")
    wait_until(stopping.service_is_ready, 10.0, "the stop")
    for _ in range(3):
        lab.turn()
        time.sleep(0.2)
    os.kill(lab.process("arm"), signal.SIGKILL)
    asked = time.monotonic()
    seconds, answer = call_seconds(
        client, EmergencyStop, "/arm/emergency_stop", EmergencyStop.Request(reason="a hand is in there")
    )
    assert answer.success, answer.message
    assert seconds < max(allowed(ANSWER_S, asked), 3 * max(delays)), (seconds, delays)
    time.sleep(0.5)
    before = lab.joints()
    lab.wait_mode(ArmState.MODE_STOPPED, timeout=60.0)  # the arm node that comes after it
    assert client.latest("/arm/state").detail == "a hand is in there"
    assert np.abs(lab.joints() - before).max() < 0.02

    lab.down()
    client = lab.up()
    lab.wait_mode(ArmState.MODE_STOPPED, timeout=3.0)
    assert client.latest("/arm/state").detail == "a hand is in there"
    executed = client.listen(ExecutedAction, "/arm/executed")
    lab.turn()
    wait_until(lambda: executed, 5.0, "an answer")
    assert executed[0][1].safety_events == ["emergency_stop"]
    done = lab.shell("rearm")
    assert done.returncode == 0 and done.stdout == "armed\n", done
    lab.wait_mode(*ARMED)
    lab.down()
    lab.up()
    lab.wait_mode(*ARMED, timeout=3.0)


def test_a_stop_is_answered_with_the_watchdog_killed_or_the_arm_node_hung(lab: Lab) -> None:
    client = lab.up()
    time.sleep(1.0)  # the driver was busy with the arm's start
    os.kill(lab.process("watchdog"), signal.SIGKILL)
    request = EmergencyStop.Request(reason="first")
    answer = client.call(EmergencyStop, "/arm/emergency_stop", request)
    wait_latched(client, answer)
    lab.wait_mode(ArmState.MODE_STOPPED)
    assert client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True)).success
    lab.wait_mode(*ARMED)
    wait_until(lambda: sum("watching" in line for line in lab.lines) == 2, 30.0, "a new watchdog")
    holds: list = []

    def sees() -> bool:
        """What is asked of a node just killed is lost: ask again."""
        holds.append(client.start_call(Trigger, "/watchdog/hold", Trigger.Request()))
        time.sleep(0.3)
        print([hold.result().message if hold.done() else "no answer" for hold in holds][-5:])
        return any(hold.done() and hold.result().success for hold in holds)

    wait_until(sees, 20.0, "a watchdog that sees")
    hung = lab.process("arm")
    os.kill(hung, signal.SIGSTOP)
    try:
        answer = client.call(EmergencyStop, "/arm/emergency_stop", EmergencyStop.Request(reason="second"))
        wait_latched(client, answer)
    finally:
        os.kill(hung, signal.SIGCONT)
    lab.wait_mode(ArmState.MODE_STOPPED)


def stop_path(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stop's file of the lab's arm."""
    monkeypatch.setenv("GYMNAST_STATE", str(lab.state))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(lab.domain))
    return stop_file(load_config(StationConfig, SIMULATED))


def test_gymnast_stop_latches_with_nobody_there_and_stops_what_moves(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    done = lab.shell("stop", "--reason", "before the start")
    assert done.returncode == 0 and "nobody answers" in done.stdout and done.stdout.count("\n") == 1, done
    refused = lab.shell("rearm")
    assert refused.returncode == 1 and "nobody answers arm/rearm" in refused.stdout
    client = lab.up()
    lab.wait_mode(ArmState.MODE_STOPPED, timeout=3.0)
    assert client.latest("/arm/state").detail == "before the start"
    assert lab.shell("rearm").returncode == 0
    lab.wait_mode(*ARMED)
    lab.turn()
    done = lab.shell("stop")
    assert done.returncode == 0 and done.stdout.startswith("stopped: "), done
    lab.wait_mode(ArmState.MODE_STOPPED, timeout=1.0)
    assert client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True)).success
    # A stop that only stands on the disk reaches arm node and watchdog, too.
    lab.wait_mode(*ARMED)
    StopLatch(stop_path(lab, monkeypatch)).set("by hand")
    lab.wait_mode(ArmState.MODE_STOPPED, timeout=2.0)


def test_status_tells_in_one_look_what_nodes_and_arm_do_and_what_is_wrong(lab: Lab) -> None:
    assert {name: getattr(ArmState, f"MODE_{name.upper()}") for name in MODES} == {n: i for i, n in enumerate(MODES)}
    nobody = lab.shell("status", "--seconds", "1")
    assert nobody.returncode == 1 and "arm/state is silent" in nobody.stdout, nobody
    assert "no supervisor is heard" in nobody.stdout

    client = lab.up()
    lab.wait_mode(*ARMED)
    well = lab.shell("status", "--json")
    told = json.loads(well.stdout)
    assert well.returncode == 0 and told["well"] and told["stops"] == [], well
    assert [(node["name"], node["state"]) for node in told["nodes"]] == [("arm", "active")]
    assert told["arm"]["mode"] in ("ready", "holding") and told["arm"]["commander"] == ""
    pose = client.latest("/arm/state").pose.position
    assert np.allclose(told["arm"]["position"], [pose.x, pose.y, pose.z], atol=2e-3)

    lab.shell("stop", "--reason", "a hand in the drawer")
    lab.wait_mode(ArmState.MODE_STOPPED, timeout=2.0)
    stopped = lab.shell("status")
    first, second, *others = stopped.stdout.splitlines()
    assert stopped.returncode == 1 and first.startswith("stop     latched: ") and "a hand in the drawer" in first
    assert second.startswith("arm      stopped: a hand in the drawer; at ") and "nodes    1 of 1 active" in others
    assert any(line.startswith("problem  arm: ") for line in others), stopped.stdout
    with Station(domain=lab.domain) as station:
        found = station.status()
    assert not found.well and found.arm is not None and found.arm.mode == "stopped"


def test_what_was_stopped_from_another_machine_is_rearmed_from_there(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.up()
    lab.wait_mode(*ARMED)
    elsewhere = tmp_path / "elsewhere"
    assert lab.shell("stop", "--reason", "from afar", state=elsewhere).returncode == 0
    lab.wait_mode(ArmState.MODE_STOPPED)
    assert list(elsewhere.glob("stop/*.json")) and list(lab.state.glob("stop/*.json"))
    done = lab.shell("rearm", state=elsewhere)
    assert done.returncode == 0 and "released, too" in done.stdout and done.stdout.count("\n") == 1, done
    lab.wait_mode(*ARMED)
    assert not list(elsewhere.glob("stop/*.json")) and not list(lab.state.glob("stop/*.json"))


def test_a_stop_without_a_station_file_is_every_arms(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYMNAST_STATE", str(lab.state))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(lab.domain))
    stations = [StationConfig("lab", TASKS, arm=ArmConfig(namespace=name)) for name in ("/left", "/right")]
    latches = [StopLatch(stop_file(station)) for station in stations]
    for latch in latches:
        latch.register()
    done = lab.shell("stop", "--reason", "all of it")
    assert done.returncode == 0 and all(str(latch.path) in done.stdout for latch in latches), done
    assert [latch.reason for latch in latches] == ["all of it"] * 2
    assert lab.shell("rearm").returncode == 1 and all(latch.is_set for latch in latches)


def test_a_stop_that_comes_while_the_arm_is_rearmed_is_kept(tmp_path: Path) -> None:
    rclpy.init(args=[])
    node = rclpy.create_node("stop_test")
    try:
        latch = StopLatch(tmp_path / "latch.json")
        latch.set("the first")
        service = StopService(node, latch, lambda: True, lambda _: None)
        seen = latch.mark()
        StopLatch(latch.path).set("the second")
        with pytest.raises(DataError, match="stopped again while it was re-armed: the second"):
            service.release(seen)
        assert latch.reason == "the second"
        service.look()
        service.release(latch.mark())
        assert not latch.is_set and not service.reason
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def test_a_stop_that_no_disk_takes_says_so_and_an_unreadable_one_holds(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    done = lab.shell("stop")
    assert done.returncode == 1 and "cannot write" in done.stdout and done.stdout.count("\n") == 1, done
    latch = StopLatch(tmp_path / "latch.json")
    assert not latch.is_set and latch.reason == ""
    for content in (b"", b"\xff{", b"[]", b'{"reason": 3}'):
        latch.path.write_bytes(content)
        assert latch.is_set and latch.reason
    latch.clear()
    latch.clear()
    assert not latch.is_set

"""Helpers for tests over real ROS processes: a graph in a domain of its own, and a client looking in from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from gymnast_msgs.msg import ArmState, GraphStatus
from gymnast_msgs.srv import EmergencyStop, Rearm, ResetArm, ResetScene
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

import gymnast_nodes  # noqa: F401 - its shared memory settings, before the first participant
from gymnast_core.config import ArmConfig
from gymnast_nodes.client import Station
from gymnast_nodes.leaving import leave_graph
from tests.domains import free_domain, isolate
from tests.machine import allowed, overdue

ROOT = Path(__file__).resolve().parent.parent
SIMULATED = ROOT / "robot_configs" / "simulated_drawer.yaml"
HELD_AFTER_S = 0.5
HELD_M = 0.006
"""A held arm may still sag by this much."""
STATES = tempfile.TemporaryDirectory(prefix="gymnast_state_")
"""What graphs keep beyond their processes; each has its own."""
ARMED = (ArmState.MODE_READY, ArmState.MODE_HOLDING)
"""Modes that accept actions. A machine that keeps the driver away for a moment makes the arm hold in between."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def wait_until(condition: Callable[[], Any], timeout: float, what: str = "condition") -> Any:
    """Poll until `condition` is true and return its value; fails the test after `timeout` seconds (tests.machine)."""
    began = time.monotonic()
    while True:
        late = overdue(timeout, began)
        value = condition()
        if value:
            return value
        if late:
            pytest.fail(f"{what}: not within {timeout:g} s ({time.monotonic() - began:.1f} s on this machine)")
        time.sleep(0.01)


class Process:
    """A command with its output lines collected."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def said(self) -> list[str]:
        """Its lines without those of Fast DDS, which says when it takes another shared-memory port (`dead_ports`)."""
        return [line for line in self.lines if "RTPS_TRANSPORT_SHM" not in line]

    def interrupt(self, timeout: float = 20.0) -> int:
        """Ctrl-C, then wait for the end; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Its exit code; fails the test after `timeout` seconds (tests.machine)."""
        wait_until(lambda: self.process.poll() is not None, timeout, "the end of a process")
        self._reader.join(2.0)
        return self.process.returncode

    def end(self) -> None:
        """Stop it whatever it does."""
        if self.process.poll() is None:
            with contextlib.suppress(pytest.fail.Exception):
                self.interrupt()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5.0)
            print("\n".join(self.lines[-60:]))  # pytest shows it of a test that failed
        self._reader.join(2.0)
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_graph(
    domain: int, config: Path = SIMULATED, without: Sequence[str] = (), state: Path | None = None, console: bool = False
) -> Process:
    """`gymnast up` on a station file, in a domain of its own; state: folder of what outlives it, None for a new one.

    console: with the page, which costs a process.
    """
    command = [sys.executable, "-m", "gymnast_core.cli", "up", str(config)]
    if without := (*without, *(() if console else ("console",))):
        command += ["--without", *without]
    state = state or Path(tempfile.mkdtemp(dir=STATES.name))
    return Process(command, {**isolate(domain), "GYMNAST_STATE": str(state)})


class Client:
    """A plain rclpy node in the graph's domain, spun in a thread, that remembers what it hears."""

    def __init__(self, domain: int, name: str = "test_client") -> None:
        os.environ.update({k: v for k, v in isolate(domain).items() if k.startswith("ROS_AUTO") or k.endswith("_ONLY")})
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.heard: dict[str, list[tuple[float, Any]]] = {}
        self.calm = (0, 0)
        """`_faults_told` when the arm last began from nothing."""
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}

    def _spin(self) -> None:
        with contextlib.suppress(Exception):  # the context is shut down under it at the end
            self._executor.spin()

    def listen(self, kind: Any, topic: str, qos: QoSProfile | int = 10) -> list[tuple[float, Any]]:
        """The growing list of (monotonic time, message) of a topic."""
        if topic not in self.heard:
            messages: list[tuple[float, Any]] = []
            self.heard[topic] = messages
            self.node.create_subscription(kind, topic, lambda m: messages.append((time.monotonic(), m)), qos)
        return self.heard[topic]

    def latest(self, topic: str) -> Any:
        """The newest message of a topic listened to, None before the first."""
        messages = self.heard[topic]
        return messages[-1][1] if messages else None

    def publish(self, kind: Any, topic: str, message: Any) -> None:
        if topic not in self._publishers:
            publisher = self.node.create_publisher(kind, topic, 10)
            self._publishers[topic] = publisher
            wait_until(lambda: publisher.get_subscription_count() > 0, 5.0, f"a subscriber of {topic}")
        self._publishers[topic].publish(message)

    def fall_silent(self, topic: str) -> None:
        """Publish a topic no more."""
        self.node.destroy_publisher(self._publishers.pop(topic))

    def call(self, kind: Any, name: str, request: Any, timeout: float = 10.0) -> Any:
        """A service's response; fails the test when there is none in time."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        wait_until(client.service_is_ready, timeout, f"service {name}")
        future = client.call_async(request)
        wait_until(future.done, timeout, f"answer of {name}")
        return future.result()

    def call_respawned(self, kind: Any, name: str, request: Any) -> Any:
        """A service's response from a node that has just come back: a request, or its answer, is lost where only one of
        the two has discovered the other, so it is sent again. For requests that may be made twice."""
        client = self._clients.setdefault(name, self.node.create_client(kind, name))
        began, future = time.monotonic(), None
        while not overdue(20.0, began):
            if client.service_is_ready():
                future = client.call_async(request)
                sent = time.monotonic()
                while not future.done() and not overdue(2.0, sent):
                    time.sleep(0.01)
                if future.done():
                    return future.result()
            time.sleep(0.1)
        pytest.fail(f"answer of {name}: not within 20 s")

    def start_call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service without waiting for its answer; returns the future."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        wait_until(self._clients[name].service_is_ready, 10.0, f"service {name}")
        return self._clients[name].call_async(request)

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        leave_graph(self.node, self.context)
        self._thread.join(2.0)


@contextlib.contextmanager
def running_graph(config: Path = SIMULATED, without: Sequence[str] = ()) -> Iterator[tuple[Process, Client]]:
    """A graph and a client in a domain of their own, both ended afterwards."""
    domain = free_domain()
    graph = start_graph(domain, config, without)
    client = Client(domain)
    try:
        yield graph, client
    finally:
        client.close()
        graph.end()


@contextlib.contextmanager
def running_station(config: Path, without: Sequence[str] = ()) -> Iterator[tuple[Process, Client, Station]]:
    """A whole graph, active, seen from outside and through the project's own client; all ended afterwards."""
    with running_graph(config, without) as (graph, raw):
        station = Station(domain=raw.context.get_domain_id())
        try:
            wait_active(raw, graph, 120.0)
            yield graph, raw, station
        finally:
            station.close()


def wait_active(client: Client, graph: Process, timeout: float = 120.0) -> None:
    """Wait until the supervisor says that every managed node is active."""
    statuses = client.listen(GraphStatus, "/supervisor/status", LATCHED)

    def all_active() -> bool:
        if graph.process.poll() is not None:
            pytest.fail(f"the graph ended:\n{graph.output}")
        return bool(statuses) and statuses[-1][1].all_active

    try:
        wait_until(all_active, timeout, "an active graph")
    except pytest.fail.Exception:
        pytest.fail(f"the graph did not come up:\n{graph.output}")


def set_faults(client: Client, *faults: str) -> None:
    """Inject faults into the simulated driver (none: mend it)."""
    value = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=list(faults) or [""])
    request = SetParameters.Request(parameters=[Parameter(name="faults", value=value)])
    result = client.call(SetParameters, "/wx250s/xs_sdk/set_parameters", request).results[0]
    assert result.successful, result.reason


def assert_held(client: Client, since: float) -> None:
    """From half a second after `since` the end effector stays where it is, and no action is sent any more.

    On a busy machine it may take longer by the time in which processes waited for a core. The client listens to
    /arm/state and /arm/action.
    """
    time.sleep(max(0.0, since + HELD_AFTER_S - time.monotonic()))
    held_from = since + allowed(HELD_AFTER_S, since)
    time.sleep(max(0.0, held_from + 1.0 - time.monotonic()))
    wait_until(lambda: len([t for t, _ in client.heard["/arm/state"] if t > held_from]) > 10, 5.0, "/arm/state")
    states = [(t, m) for t, m in client.heard["/arm/state"] if t > held_from]
    places = np.array([list(message.bridge_pose)[:3] for _, message in states])
    assert np.linalg.norm(places - places[0], axis=1).max() < HELD_M
    late = [t for t, _ in client.heard["/arm/action"] if held_from < t < held_from + 0.9]
    assert not late, f"actions {[round(t - since, 2) for t in late]} s after the fault"


def settle(client: Client) -> None:
    """Bring a graph that tests share to where each of them begins: no fault, the arm at its start, a new scene.

    What the test before left (a stopped or limp arm, a fault that is about to be noticed, faults that are counted
    towards the stop) is undone, however often it comes up again.
    """
    states = client.listen(ArmState, "/arm/state")
    client.listen(String, "/watchdog/fault", LATCHED)
    set_faults(client)
    began, told = time.monotonic(), ""

    def rests() -> bool:
        """Ready at its start, and still so once what was under way has had its say."""
        first = len(states)
        wait_until(lambda: len(states) >= first + 8, 10.0, "/arm/state")
        return all(_at_start(state) for _, state in states[first:])

    rested = rests()
    while not rested or _faults_told(client) != client.calm:
        if overdue(60.0, began):
            pytest.fail(f"the arm does not come to rest at its start: {told}")
        rested, told = _begin_anew(client, rests)
    client.call(ResetScene, "/station/reset_scene", ResetScene.Request(task="open_drawer", seed=0))


def _faults_told(client: Client) -> tuple[int, int]:
    """Faults of which arm node and watchdog have told this client."""
    return client.latest("/arm/state").holds, len(client.heard["/watchdog/fault"])


def _begin_anew(client: Client, rests: Callable[[], bool]) -> tuple[bool, str]:
    """Stop the arm and release it: every motor hears its mode, profile and torque anew, and faults count from nothing.

    Returns whether it then rests at its start, and what was said.
    """
    client.call(EmergencyStop, "/arm/emergency_stop", EmergencyStop.Request(reason="between two tests"))
    # The watchdog must have seen it, too.
    wait_until(lambda: client.latest("/arm/state").mode == ArmState.MODE_STOPPED, 5.0, "the stop")
    time.sleep(0.1)
    client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True))
    client.calm = _faults_told(client)
    answer = client.call(ResetArm, "/arm/reset", ResetArm.Request(), 20.0)
    return answer.success and rests(), answer.message or client.latest("/arm/state").detail


def _at_start(state: ArmState) -> bool:
    pose = np.array(state.bridge_pose)
    near = np.linalg.norm(pose[:3] - ArmConfig().start_position) < 0.02 and np.abs(pose[3:]).max() < 0.1
    return bool(near and state.mode == ArmState.MODE_READY and state.gripper > 0.9 and not state.commander)


def call_reset(client: Client, request: ResetArm.Request | None = None) -> None:
    """Reset the arm; again where it says that somebody was silent for a moment: a busy machine kept the driver or the
    arm node away."""
    began = time.monotonic()
    answer = client.call(ResetArm, "/arm/reset", request or ResetArm.Request(), 30.0)
    passing = ("is being checked", "arm node silent", "no joint states for", "no fresh joint states")
    while any(words in answer.message for words in passing) and not overdue(10.0, began):
        time.sleep(0.2)
        answer = client.call(ResetArm, "/arm/reset", request or ResetArm.Request(), 30.0)
    assert answer.success, answer.message


def process_of(node: str, graph: Process) -> int:
    """Process id of a node of a running graph, by its command line."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if f"__node:={node}" in words and parent == graph.process.pid:
                return int(entry.name)
    pytest.fail(f"node {node} has no process")

"""Supervision, timeouts and the stream of actions run on the steady clock, whatever the wall clock does."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gymnast_msgs.msg import ArmState, BridgeAction, ExecutedAction
from gymnast_msgs.srv import Rearm, ResetArm
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from std_msgs.msg import String

import gymnast_nodes
from gymnast_core.graph import station_graph
from gymnast_core.up import command_line
from gymnast_nodes.clocks import SteadyNode
from tests.domains import free_domain, isolate
from tests.machine import LATENESS, overdue
from tests.ros_tools import (
    SIMULATED,
    Client,
    Process,
    call_reset,
    process_of,
    running_graph,
    set_faults,
    wait_active,
    wait_until,
)

HOUR_S = 3600.0
WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator")


class MovableClock:
    """The clocks of every process started meanwhile, and of what this one stamps: the wall clock, and the one that
    counts the machine's sleep."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.write_bytes(bytes(16))
        self.shift_s = self.slept_s = 0.0

    def set_by(self, seconds: float) -> None:
        self.shift_s += seconds
        self._write()

    def sleep(self, seconds: float) -> None:
        """The machine sleeps: its steady clock stands still, the others go on."""
        self.slept_s += seconds
        self.set_by(seconds)

    def _write(self) -> None:
        with open(self._path, "r+b") as stream:
            stream.write(struct.pack("<qq", int(self.shift_s * 1000), int(self.slept_s * 1000)))

    def now(self) -> float:
        return time.time() + self.shift_s


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MovableClock:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to build the movable clock with")
    library = tmp_path / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    clock = MovableClock(tmp_path / "shift")
    # This process keeps its own clock, as another machine would. Shared memory is for processes of one machine: in it
    # Fast DDS compares times, and takes a port for dead that was last looked at an hour from now.
    profile = Path(gymnast_nodes.__file__).with_name("fastdds.xml").read_text(encoding="utf-8")
    apart, shared = tmp_path / "apart.xml", "<transport_id>shared_memory</transport_id>"
    head, *users = profile.split("<userTransports>")
    apart.write_text("<userTransports>".join((head, *(part.replace(shared, "") for part in users))), encoding="utf-8")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(apart))
    monkeypatch.setenv("CLOCK_SHIFT", str(tmp_path / "shift"))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    return clock


def send(client: Client, step: int, stamp: float) -> None:
    """A small action up, stamped `stamp` (seconds)."""
    message = BridgeAction(episode_id="clock", step=step, translation=[0.0, 0.0, 0.0002], gripper=1.0)
    message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
    client.publish(BridgeAction, "/arm/action", message)


def rearm_what_a_busy_machine_stopped(client: Client, states: list[tuple[float, ArmState]], graph: Process) -> None:
    """The watchdog takes a process that waits long for a core for a fault; a clock must not stop the arm."""
    if states[-1][1].mode != ArmState.MODE_STOPPED:
        return
    latest = itertools.takewhile(lambda told: told[1].mode == ArmState.MODE_STOPPED, reversed(states))
    stopped = min(t for t, _ in latest)
    why = f"{states[-1][1].detail}\n{graph.output}"
    assert LATENESS.stalled(stopped - 5.0, stopped) > 0.2, f"stopped on an idle machine: {why}"
    answer = client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True))
    wait_until(lambda: states[-1][1].mode != ArmState.MODE_STOPPED, 30.0, f"an arm armed again: {answer}\n{why}")


def command_until_accepted(
    client: Client, clock: MovableClock, executed: list[tuple[float, ExecutedAction]], graph: Process
) -> None:
    """Returns when an action is just being executed; on a busy machine some come too late and are refused."""
    for step in range(1, 100):
        send(client, step, clock.now())
        wait_until(lambda wanted=step: executed[-1][1].commanded.step >= wanted, 10.0, "arm/executed")
        if executed[-1][1].accepted:
            return
        time.sleep(0.1)
    pytest.fail(f"no action was accepted\n{graph.output}")


def test_a_wall_clock_that_is_set_stops_no_supervision_and_no_action(clock: MovableClock, tmp_path: Path) -> None:
    content = yaml.safe_load(SIMULATED.read_text(encoding="utf-8"))
    content["safety"]["command_timeout_s"] = 2.0  # a busy machine, too, must not let the arm hold
    station = tmp_path / "station.yaml"
    station.write_text(yaml.safe_dump(content), encoding="utf-8")
    with running_graph(station, without=WITHOUT) as (graph, client):
        wait_active(client, graph)
        executed = client.listen(ExecutedAction, "/arm/executed", 100)
        states = client.listen(ArmState, "/arm/state", 100)
        call_reset(client)
        # Never before the true time: C++ libraries that ask the kernel for it would then wait for hours, as they would
        # not with a clock that is really set.
        jumps = {15: 3 * HOUR_S, 30: -HOUR_S, 45: -HOUR_S}
        for step in range(60):
            stamp, sent = clock.now(), time.monotonic()
            clock.set_by(jumps.get(step, 0.0))  # while this action is under way
            send(client, step, stamp)
            wait_until(lambda wanted=step: len(executed) > wanted, 30.0, "arm/executed")
            arrived, answer = executed[-1]
            by_the_clock = {"stale", "stamp_in_future", "out_of_order"} & set(answer.safety_events)
            assert not by_the_clock or arrived - sent > 1.0, f"step {step}: {by_the_clock}"
            rearm_what_a_busy_machine_stopped(client, states, graph)
            time.sleep(0.1)
        refused = [answer.safety_events for _, answer in executed[45:] if not answer.accepted]
        assert any(answer.accepted for _, answer in executed[45:]), (refused, states[-1][1], graph.output)
        # What the supervision notices, it notices after a further jump, too; the longest silence is no jump's.
        clock.set_by(-HOUR_S)
        set_faults(client, "overload:elbow")
        overloaded, step = time.monotonic(), 60
        while not any("effort" in message.detail for at, message in states if at > overloaded):
            assert not overdue(60.0, overloaded), f"{states[-1][1]}\n{graph.output}"
            send(client, step, clock.now())
            step += 1
            time.sleep(0.1)
        times = [t for t, _ in states]
        assert max(b - a for a, b in itertools.pairwise(times)) < 60.0
        wait_until(lambda: len(moved(graph)) == 4, 30.0, "four jumps told")
        assert "+10800" in moved(graph)[0] and "-3600" in moved(graph)[1]
        # Simulated time is not turned on meanwhile either.
        value = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True)
        request = SetParameters.Request(parameters=[Parameter(name="use_sim_time", value=value)])
        for node in ("/arm", "/watchdog", "/supervisor"):
            result = client.call(SetParameters, f"{node}/set_parameters", request).results[0]
            assert not result.successful and "use_sim_time" in result.reason
        assert len(moved(graph)) == 4


def test_after_the_machine_slept_the_arm_is_looked_at_and_supervision_goes_on(clock: MovableClock) -> None:
    with running_graph(SIMULATED, without=WITHOUT) as (graph, client):
        wait_active(client, graph)
        executed = client.listen(ExecutedAction, "/arm/executed", 100)
        faults = client.listen(String, "/watchdog/fault", 100)
        states = client.listen(ArmState, "/arm/state", 100)
        # A busy machine may interrupt a reset.
        assert any(client.call(ResetArm, "/arm/reset", ResetArm.Request(), 60.0).success for _ in range(10))
        send(client, 0, clock.now())
        wait_until(lambda: len(executed) > 0 and executed[-1][1].accepted, 30.0, "an action")
        clock.sleep(HOUR_S)
        for node in ("arm node", "watchdog"):
            wait_until(lambda name=node: f"the {name} was away for 3600." in graph.output, 30.0, f"{node} looks")
        wait_until(lambda: any("settings were checked" in state.detail for _, state in states), 30.0, "a check")
        hung = process_of("arm", graph)
        command_until_accepted(client, clock, executed, graph)
        # An arm node that hangs now is noticed now, not in an hour.
        os.kill(hung, signal.SIGSTOP)
        try:
            wait_until(
                lambda: any("arm node silent" in fault.data for _, fault in faults), 30.0, f"a fault\n{graph.output}"
            )
        finally:
            os.kill(hung, signal.SIGCONT)


def moved(graph: Process) -> list[str]:
    """What was said of the wall clock."""
    return [line for line in graph.lines if "wall clock was moved" in line]


def test_no_timer_of_a_node_can_run_on_another_clock() -> None:
    for path in sorted(Path(gymnast_nodes.__file__).parent.glob("*.py")):
        module = importlib.import_module(f"gymnast_nodes.{path.stem}")
        nodes = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
        assert all(issubclass(cls, SteadyNode) for cls in nodes if issubclass(cls, Node)), path.name
        text = path.read_text(encoding="utf-8")
        if path.name not in ("clocks.py", "calls.py") and re.search(r"create_node\(|[^\w]Node\(", text):
            assert "create_timer" not in text, path.name


@pytest.fixture
def nodes_in_simulated_time() -> Iterator[dict[str, Process]]:
    environment = isolate(free_domain())
    running = {}
    for node in station_graph(SIMULATED):
        simulated = dataclasses.replace(node, parameters=(*node.parameters, ("use_sim_time", True)))
        running[node.name] = Process(command_line(simulated), environment)
    yield running
    for process in running.values():
        process.end()


def test_simulated_time_is_refused_in_one_line(nodes_in_simulated_time: dict[str, Process]) -> None:
    for name, process in nodes_in_simulated_time.items():
        assert process.wait(120.0) == 2
        assert len(process.said) == 1 and "use_sim_time" in process.said[0] and name in process.said[0], process.lines

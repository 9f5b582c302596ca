"""A WidowX AI behind the same contract: its vendor's package, against its vendor's simulated controller.

Both are used where they are installed (trossen-arm, trossen-arm-sim); elsewhere a stand-in for the package
(tests/vendor), in the driver's own process.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from gymnast_msgs.msg import ArmState
from gymnast_msgs.srv import Rearm, ResetArm
from interbotix_xs_msgs.srv import Reboot, RegisterValues

from gymnast_core.config import ArmConfig, StationConfig, load_config
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.graph import station_graph
from gymnast_core.robot.arm_model import WX250S, arm_model
from gymnast_core.robot.identity import check_description, check_limits
from gymnast_nodes.arm_checks import CHECKS
from gymnast_nodes.direct_driver import DirectDriver, DriverFault, driver_class
from gymnast_nodes.trossen_driver import TrossenDriver
from tests.domains import free_domain, isolate
from tests.ros_tools import Client, call_reset, start_graph, wait_until

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = ROOT / "tests" / "vendor"
REAL = ROOT / "robot_configs" / "bridge_widowx_ai.yaml"
INSTALLED = all(importlib.util.find_spec(name) is not None for name in ("trossen_arm", "trossen_arm_sim"))
WXAI = arm_model("wxai")
WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator")


class Controller:
    """The simulated controller of one arm, at an address of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._process: subprocess.Popen[str] | None = None
        if INSTALLED:
            words = [sys.executable, str(ROOT / "tests" / "trossen_arm_server.py"), address]
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None and self._process.stdout.readline() == "serving\n"

    def overheat(self) -> None:
        if self._process is None:
            importlib.import_module("trossen_arm").overheat(self.address)
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("fault\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "faulted\n"

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    """Two runs on one machine do not meet: the address is of this process and this test."""
    if not INSTALLED:
        monkeypatch.syspath_prepend(str(STAND_IN))
    found = Controller(f"127.{os.getpid() >> 8 & 127}.{os.getpid() & 255}.{time.monotonic_ns() % 250 + 2}")
    yield found
    found.end()


def arm_config(address: str) -> ArmConfig:
    return ArmConfig(model="wxai", driver="trossen", address=address)


def station_file(folder: Path, controller: Controller) -> Path:
    content = yaml.safe_load(REAL.read_text(encoding="utf-8"))
    content["arm"] |= {"address": controller.address, "reset_seconds": 1.0}
    path = folder / "ai.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def moves(driver: DirectDriver, done: Callable[[np.ndarray], bool]) -> None:
    wait_until(lambda: (reading := driver.read()) is not None and done(np.array(reading.positions)), 10.0, "a motion")


def test_it_moves_holds_and_names_its_fault(controller: Controller) -> None:
    """Commands without torque are refused by the package; a fault is one line, and recovering clears it."""
    driver = driver_class("trossen")(arm_config(controller.address), lambda line: None)
    with pytest.raises(DriverFault, match="is not connected"):
        driver.read()
    driver.open()
    try:
        check_limits(driver.limits(), WXAI)
        with pytest.raises(StationError, match=r"this is no WidowX 250s: .*finger goes from 0.000 to 0.044"):
            check_limits(driver.limits(), WX250S)
        assert not driver.has_torque() and len(driver.temperatures()) == 7
        with pytest.raises(DriverFault, match=r"does not take a motion: .* idle"):
            driver.move([0.0] * 6, 0.25)
        driver.set_torque(True)
        goal = np.array([0.1, 0.3, 0.2, 0.1, 0.0, -0.1])
        driver.move(goal.tolist(), 0.3)
        driver.move_finger(0.02, 0.3)
        moves(driver, lambda q: np.abs(q[:6] - goal).max() < 0.02 and abs(q[6] - 0.02) < 0.003)
        controller.overheat()
        with pytest.raises(DriverFault, match=f"the arm at {controller.address} .*Joint overheated$"):
            wait_until(lambda: driver.read() and None, 10.0, "a fault")
        driver.recover()
        assert not driver.has_torque()
        moves(driver, lambda q: np.isfinite(q).all())
    finally:
        driver.close()


def test_what_it_tells_of_its_links_is_compared(controller: Controller) -> None:
    driver = TrossenDriver(arm_config(controller.address), lambda line: None)
    driver.open()
    try:
        origins = [list(place) for place in driver.origins()]
    finally:
        driver.close()

    def told(places: list[list[float]]) -> str:
        joints = (
            f'<joint name="{name}"><origin xyz="{" ".join(map(str, place))}"/></joint>'
            for name, place in zip(WXAI.names, places)
        )
        return f"<robot>{''.join(joints)}</robot>"

    check_description(told(origins), WXAI)
    longer = [*origins[:3], [origins[3][0] + 0.03, *origins[3][1:]], *origins[4:]]
    with pytest.raises(StationError, match=r"this is no WidowX AI: joint_3 stands at 0.27"):
        check_description(told(longer), WXAI)


def test_the_arm_keeps_the_contract_behind_the_whole_graph(controller: Controller, tmp_path: Path) -> None:
    """`gymnast arm check` starts the driver's node, the arm node and the watchdog of the shipped station file."""
    path = station_file(tmp_path, controller)
    words = [sys.executable, "-m", "gymnast_core.cli", "arm", "check", str(path), "--yes", "--json"]
    told = {**isolate(free_domain()), "GYMNAST_STATE": str(tmp_path / "state")}
    if not INSTALLED:
        told["PYTHONPATH"] = f"{STAND_IN}{os.pathsep}{told.get('PYTHONPATH', '')}"
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=240)
    assert done.stdout, done.stderr[-4000:]
    result = json.loads(done.stdout)
    verdicts = {row["name"]: row["verdict"] for row in result["checks"]}
    assert done.returncode == 0, f"{result}\n{done.stderr[-4000:]}"
    assert verdicts == {name: "skipped" if name == "silence" else "kept" for name in CHECKS}
    assert "Traceback" not in done.stderr and "does not take a motion" not in done.stderr


@pytest.mark.skipif(not INSTALLED, reason="trossen-arm and trossen-arm-sim are not installed")
def test_a_controllers_fault_holds_the_arm_until_a_person_has_looked(controller: Controller, tmp_path: Path) -> None:
    """The driver says what the controller said; nothing moves; reboot and re-arming bring the arm back, with torque."""
    path, domain = station_file(tmp_path, controller), free_domain()
    client, graph = Client(domain), start_graph(domain, path, WITHOUT)
    states = client.listen(ArmState, "/arm/state", 100)

    def in_mode(*modes: int) -> None:
        wait_until(lambda: states and states[-1][1].mode in modes, 60.0, f"mode {modes}\n{graph.output}")

    try:
        in_mode(ArmState.MODE_READY)
        call_reset(client)
        controller.overheat()
        wait_until(lambda: "Joint overheated" in graph.output, 10.0, "the controller's words")
        in_mode(ArmState.MODE_STOPPED, ArmState.MODE_HOLDING)
        refused = client.call(ResetArm, "/arm/reset", ResetArm.Request(), 30.0)
        assert not refused.success
        client.call(Reboot, "/wxai/reboot_motors", Reboot.Request(cmd_type="group", name="all", enable=True), 30.0)
        if states[-1][1].mode == ArmState.MODE_STOPPED:
            wait_until(lambda: client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True)).success, 30.0, "re-arming")
        in_mode(ArmState.MODE_READY, ArmState.MODE_HOLDING)
        read = RegisterValues.Request(cmd_type="group", name="all", reg="Torque_Enable")
        wait_until(
            lambda: list(client.call(RegisterValues, "/wxai/get_motor_registers", read).values) == [1] * 7,
            30.0,
            "torque",
        )
        call_reset(client)
        assert "Traceback" not in graph.output
    finally:
        graph.end()
        client.close()


def test_the_graph_has_the_driver_and_another_arm_is_refused(tmp_path: Path) -> None:
    graph = {node.name: node for node in station_graph(REAL)}
    assert graph["driver"].namespace == "/wxai" and ("driver_starts", True) in graph["supervisor"].parameters
    station = load_config(StationConfig, REAL)
    assert station.arm.driver_node == "/wxai/driver"
    with pytest.raises(ConfigError, match=r"arm.model: found 'wx250s', but driver trossen drives: wxai"):
        TrossenDriver(ArmConfig(driver="trossen"), lambda line: None)
    with pytest.raises(ConfigError, match=r"arm.driver: found 'nobody.home:Driver', which cannot be imported"):
        driver_class("nobody.home:Driver")


@pytest.mark.skipif(not INSTALLED, reason="trossen-arm and trossen-arm-sim are not installed")
def test_the_stand_in_has_the_packages_names_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module("trossen_arm")
    spec = importlib.util.spec_from_file_location("stand_in", STAND_IN / "trossen_arm" / "__init__.py")
    assert spec is not None and spec.loader is not None
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    for kind in ("Mode", "Model", "StandardEndEffector"):
        names = {name for name in vars(getattr(stand_in, kind)) if not name.startswith("_")}
        assert names and all(hasattr(getattr(real, kind), name) for name in names)
    for name, method in vars(stand_in.TrossenArmDriver).items():
        if not name.startswith("_"):
            told = (getattr(real.TrossenArmDriver, name).__doc__ or "").splitlines()[0]
            for argument in list(inspect.signature(method).parameters)[1:]:
                assert f"{argument}:" in told, f"{name}: {told}"

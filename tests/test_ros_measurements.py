"""False joint states, another arm and a hang move nothing: arm node and watchdog in front of a driver that lies.

The driver is a stand-in without physics that goes where it is told, in the time the profile says, and notes every
command with the place it was at. What it publishes may be something else.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnast_msgs.msg import ArmState, BridgeAction
from gymnast_msgs.srv import EmergencyStop, Rearm, ResetArm
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import OperatingModes, RegisterValues, RobotInfo, TorqueEnable
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER
from tests.domains import free_domain, isolate
from tests.machine import overdue
from tests.ros_tools import Client, Process, call_reset, process_of, start_graph, wait_until

WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator")
STATION = """
name: stand_in
arm: {namespace: /wx250s, start_position: [0.258325, 0.0, 0.155], reset_seconds: 1.0, driver_timeout_s: 30}
safety: {workspace_min: [0.126, -0.165, 0.022], workspace_max: [0.364, 0.077, 0.164]}
tasks: {close_drawer: {instruction: close the drawer, max_steps: 15}}
"""
SLEEP = np.array([0.0, -1.80, 1.55, 0.0, 0.8, 0.0])
TICKS = -math.pi + np.arange(6) % 2 * 2 * math.pi / 4096
VIPER_LOWER = (
    *JOINT_LOWER[:1],
    math.radians(-106),
    math.radians(-101),
    JOINT_LOWER[3],
    math.radians(-107),
    JOINT_LOWER[5],
)
VIPER_UPPER = (*JOINT_UPPER[:1], math.radians(72), math.radians(92), JOINT_UPPER[3], math.radians(128), JOINT_UPPER[5])
VIPER = (VIPER_LOWER, VIPER_UPPER, (0.021, 0.057))
"""Lower and upper joint limits, and the finger's range."""
WAIST, SHOULDER, ELBOW = np.eye(6)[:3]
STEP = 0.35
"""Radians: no command of these tests is meant to lie farther from the arm than this."""


class StandIn:
    """The vendor's interface. shown: what is published instead of the arm's joints (6,), None: the truth."""

    def __init__(self, client: Client, joints: np.ndarray = SLEEP, viper: bool = False, stamped: bool = True) -> None:
        self._node = client.node
        self.limits = VIPER if viper else (JOINT_LOWER, JOINT_UPPER, (0.015, 0.037))
        self.shown: Callable[[np.ndarray], np.ndarray | None] = lambda joints: joints
        self.commands: list[tuple[float, np.ndarray, np.ndarray]] = []
        """(monotonic time, commanded, where the arm was)."""
        self.torque_calls = 0
        self._stamped = stamped
        self._from = self._to = joints
        self._began = -math.inf
        self._registers = {"Profile_Velocity": 2000, "Profile_Acceleration": 300, "Torque_Enable": 1}
        self._modes = {"arm": ("position", "time"), "gripper": ("pwm", "time")}
        self._publisher = self._node.create_publisher(JointState, "/wx250s/joint_states", 10)
        self._node.create_subscription(JointGroupCommand, "/wx250s/commands/joint_group", self._on_command, 10)
        self._node.create_subscription(JointSingleCommand, "/wx250s/commands/joint_single", lambda _: None, 10)
        for kind, name, answer in (
            (RobotInfo, "get_robot_info", self._on_info),
            (OperatingModes, "set_operating_modes", self._on_modes),
            (TorqueEnable, "torque_enable", self._on_torque),
            (RegisterValues, "set_motor_registers", self._on_set),
            (RegisterValues, "get_motor_registers", self._on_get),
        ):
            self._node.create_service(kind, f"/wx250s/{name}", answer)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def joints(self) -> np.ndarray:
        """(6,) radians: where the arm is."""
        share = (time.monotonic() - self._began) / max(1e-3, self._registers["Profile_Velocity"] / 1000)
        return self._from + (self._to - self._from) * min(1.0, share)

    def carry(self, joints: np.ndarray) -> None:
        """Put the arm elsewhere at once."""
        self._from = self._to = np.array(joints, dtype=np.float64)

    def farthest(self, since: float = 0.0) -> float:
        """Radians from the arm to the farthest command."""
        return max((float(np.abs(cmd - at).max()) for t, cmd, at in self.commands if t >= since), default=0.0)

    def end(self) -> None:
        self._ending.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._ending.wait(0.01):
            shown = self.shown(self.joints)
            if shown is None:
                continue
            message = JointState(name=[*JOINT_NAMES, "gripper", "left_finger", "right_finger"])
            if self._stamped:
                message.header.stamp = self._node.get_clock().now().to_msg()
            message.position = [*(float(q) for q in shown), 1.0, 0.03, -0.03]
            message.velocity, message.effort = [0.0] * 9, [100.0] * 9
            self._publisher.publish(message)

    def _on_command(self, message: JointGroupCommand) -> None:
        at, self._began = self.joints, time.monotonic()
        self._from, self._to = at, np.array(message.cmd, dtype=np.float64)
        self.commands.append((self._began, self._to, at))

    def _on_info(self, request: RobotInfo.Request, response: RobotInfo.Response) -> RobotInfo.Response:
        lower, upper, finger = self.limits
        single = request.name == "gripper"
        response.mode, response.profile_type = self._modes[request.name]
        response.joint_names = ["left_finger"] if single else list(JOINT_NAMES)
        response.joint_lower_limits = [finger[0]] if single else [float(x) for x in lower]
        response.joint_upper_limits = [finger[1]] if single else [float(x) for x in upper]
        response.num_joints = len(response.joint_names)
        return response

    def _on_modes(self, request: OperatingModes.Request, response: OperatingModes.Response) -> OperatingModes.Response:
        self._modes[request.name] = (request.mode, request.profile_type)
        return response

    def _on_torque(self, _: TorqueEnable.Request, response: TorqueEnable.Response) -> TorqueEnable.Response:
        self.torque_calls += 1
        return response

    def _on_set(self, request: RegisterValues.Request, response: RegisterValues.Response) -> RegisterValues.Response:
        self._registers[request.reg] = request.value
        return response

    def _on_get(self, request: RegisterValues.Request, response: RegisterValues.Response) -> RegisterValues.Response:
        count = {"arm": 6, "all": 7}.get(request.name, 1)
        response.values = [self._registers.get(request.reg, 0)] * count
        return response


class Scene:
    """A graph in front of a stand-in, seen from outside."""

    def __init__(self, graph: Process, client: Client, driver: StandIn, path: Path, domain: int) -> None:
        self.graph, self.client, self.driver, self.path, self.domain = graph, client, driver, path, domain
        self.states = client.listen(ArmState, "/arm/state", 100)

    @property
    def state(self) -> ArmState:
        return self.states[-1][1]

    def wait_mode(self, *modes: int, timeout: float = 10.0) -> None:
        wait_until(lambda: self.states and self.state.mode in modes, timeout, f"mode {modes}\n{self.graph.output}")

    def reset(self, **offset: list[float]) -> None:
        self.wait_mode(ArmState.MODE_READY, ArmState.MODE_HOLDING, timeout=60.0)
        call_reset(self.client, ResetArm.Request(**offset))

    def act(self, seconds: float, forward: float = 0.0005) -> None:
        """Bridge actions at 5 Hz."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = BridgeAction(gripper=1.0)
            message.translation[0] = forward
            stamp = time.time()
            message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
            self.client.publish(BridgeAction, "/arm/action", message)
            time.sleep(0.2)

    def stop_arm(self) -> EmergencyStop.Response:
        return self.client.call(EmergencyStop, "/arm/emergency_stop", EmergencyStop.Request(reason="a test"))

    def rearm(self) -> None:
        answer = self.client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True))
        assert answer.success, answer.message


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    path = tmp_path / "station.yaml"
    path.write_text(STATION)
    domain = free_domain()
    client = Client(domain, "stand_in")
    driver = StandIn(client, **getattr(request, "param", {}))
    looking = Client(domain, "test_client")
    graph = start_graph(domain, path, WITHOUT)
    try:
        yield Scene(graph, looking, driver, path, domain)
    finally:
        graph.end()
        driver.end()
        looking.close()
        client.close()


def test_one_false_sample_throws_no_hold_and_a_false_one_that_stays_is_left_to_a_person(scene: Scene) -> None:
    """After a reset, in motion, at an emergency stop and at re-arming: wherever the measured pose is commanded."""
    scene.reset()
    driver, glitches = scene.driver, 0

    def glitch(false: Callable[[np.ndarray], np.ndarray], every: int) -> None:
        count = 0

        def show(joints: np.ndarray) -> np.ndarray:
            nonlocal count, glitches
            count += 1
            glitches += count % every == 0
            return false(joints) if count % every == 0 else joints

        driver.shown = show

    for false in (
        lambda joints: TICKS,
        lambda joints: np.array([-math.pi, *joints[1:]]),
        lambda joints: joints + 0.5 * ELBOW,
        lambda joints: np.zeros(6),
        lambda joints: np.full(6, math.nan),
        lambda joints: SLEEP,
    ):
        glitch(false, 7)
        before = glitches
        scene.act(1.2)
        wait_until(lambda before=before: glitches > before + 6, 5.0, "false samples")
        scene.client.call(Trigger, "/watchdog/hold", Trigger.Request())
        time.sleep(0.6)  # holding since no action came
    assert scene.stop_arm().success
    scene.rearm()
    scene.reset()
    assert glitches > 40 and driver.farthest() < STEP, driver.farthest()
    assert "commands stopped" not in scene.graph.output, "a false sample is no motion"
    driver.shown = lambda joints: joints + 0.4 * SHOULDER
    began = time.monotonic()
    scene.act(1.0)
    scene.wait_mode(ArmState.MODE_STOPPED)
    assert "shoulder reads" in scene.state.detail and "read falsely" in scene.state.detail
    scene.stop_arm()
    time.sleep(0.5)
    assert driver.farthest(began) < 0.1, "from the contradicted sample on nothing is commanded by it"
    driver.shown = lambda joints: joints
    time.sleep(0.3)
    scene.rearm()
    first = len(scene.states)
    scene.act(0.6)
    assert {state.mode for _, state in scene.states[first:]} <= {ArmState.MODE_READY, ArmState.MODE_HOLDING}
    assert driver.farthest(began) < 0.1


@pytest.mark.parametrize("scene", [{"stamped": True}, {"stamped": False}], indirect=True)
@pytest.mark.parametrize("hung", ["watchdog", "arm"])
def test_what_wakes_from_a_hang_sends_nothing_of_before(scene: Scene, hung: str) -> None:
    """Stopped for seconds while the arm is carried elsewhere, in mid-motion of a reset: no command goes back there, and
    none makes up for the time by a burst."""
    scene.reset()
    scene.client.start_call(ResetArm, "/arm/reset", ResetArm.Request(offset=[0.04, 0.04, 0.0]))
    scene.wait_mode(ArmState.MODE_MOVING)
    time.sleep(0.3)
    pid = process_of(hung, scene.graph)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(2.0)
        scene.driver.carry(scene.driver.joints + 0.3 * WAIST)
        time.sleep(0.5)
    finally:
        woken = time.monotonic()
        os.kill(pid, signal.SIGCONT)
    scene.stop_arm()
    time.sleep(1.5)
    assert scene.driver.farthest(woken) < 0.1, f"{scene.driver.commands[-3:]}\n{scene.graph.output}"


@pytest.mark.parametrize("scene", [{"viper": True}], indirect=True)
def test_a_viperx_is_refused_before_it_has_torque_and_what_was_found_is_named(scene: Scene) -> None:
    wait_until(lambda: "no WidowX 250s" in scene.graph.output, 60.0, "the refusal")
    line = next(line for line in scene.graph.lines if "no WidowX 250s" in line)
    assert "0.021 to 0.057 m instead of 0.015 to 0.037" in line and "wrist_angle goes from -107 to 128" in line
    time.sleep(1.0)
    assert not scene.driver.commands and not scene.driver.torque_calls
    # `gymnast doctor` finds it, too, before anything is started.
    words = [sys.executable, "-m", "gymnast_nodes.look", "--station", str(scene.path)]
    looked = subprocess.run(words, env=isolate(scene.domain), capture_output=True, text=True, timeout=60)
    told = [line for line in looked.stdout.splitlines() if "no WidowX 250s" in line]
    assert len(told) == 1 and told[0] in line, looked
    assert not scene.driver.commands and not scene.driver.torque_calls


def test_another_arms_driver_in_the_place_of_the_first_stops_the_arm(scene: Scene) -> None:
    """The driver falls silent, and what speaks afterwards has a ViperX's limits: nothing more is commanded."""
    scene.reset()
    scene.driver.shown = lambda joints: None
    wait_until(lambda: "no joint states" in scene.state.detail, 5.0, "the silence is noticed")
    time.sleep(1.0)
    scene.driver.limits = VIPER
    scene.driver.shown = lambda joints: joints
    scene.wait_mode(ArmState.MODE_STOPPED)
    assert "the driver was silent" in scene.state.detail and "no WidowX 250s" in scene.state.detail
    stopped = time.monotonic()
    scene.act(1.0)
    answer = scene.client.call(Rearm, "/arm/rearm", Rearm.Request(confirm=True))
    assert not answer.success and "no WidowX 250s" in answer.message
    assert scene.driver.farthest(stopped) < 0.01  # at most held where it is


def test_five_faults_within_a_minute_stop_the_arm(scene: Scene) -> None:
    """Joint states stop while actions come, again and again. Arm node and watchdog both count."""
    scene.reset()
    faults = scene.client.listen(String, "/watchdog/fault")
    before = scene.state.holds

    def counted() -> int:
        """By whoever counted most: on a busy machine a node that came too late is a fault, too."""
        return max(len(faults), scene.state.holds - before)

    def silences() -> int:
        return sum("joint states stopped" in message.data for _, message in faults)

    def act_until(condition: Callable[[], bool], timeout: float) -> None:
        began = time.monotonic()
        while not condition() and not overdue(timeout, began):
            scene.act(0.2)

    while counted() < 5:
        told, heard = len(scene.states), silences()
        going = (ArmState.MODE_READY, ArmState.MODE_STOPPED)
        act_until(lambda: len(scene.states) > told and scene.state.mode in going, 10.0)  # noqa: B023 - in this round
        if scene.state.mode == ArmState.MODE_STOPPED:
            break
        assert scene.state.mode == ArmState.MODE_READY, f"after {counted()} faults: {scene.state.detail}"
        scene.driver.shown = lambda joints: None
        act_until(lambda: silences() > heard, 5.0)  # noqa: B023 - called in this round only
        assert silences() > heard, scene.state.detail
        scene.driver.shown = lambda joints: joints
    scene.wait_mode(ArmState.MODE_STOPPED)
    assert "5 faults" in scene.state.detail and counted() >= 5

"""The simulated driver breaks as real ones do: faults by name, by a schedule, and as the arm's filter sees them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gymnast_core.config import ScheduledFault
from gymnast_core.errors import ConfigError
from gymnast_core.robot.believed import FailedRead, read_sample
from gymnast_core.robot.health import LIMIT_C, MOTORS, SHADOWS, MotorHealth
from gymnast_core.simulation.faults import KINDS, FaultSchedule, fault_table, parse_faults
from gymnast_core.simulation.motors import ARM_JOINTS, MOTOR_IDS
from gymnast_core.simulation.xs_driver import JOINT_STATE_NAMES, SimulatedDriver


class StillArm:
    """An arm at zero that remembers what it was told."""

    def __init__(self) -> None:
        self.goals: list[tuple[np.ndarray, float]] = []
        self.torque = True

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = np.zeros(9)
        position[7:] = 0.03, -0.03
        return position, np.zeros(9), np.full(9, 100.0)

    def command_joints(self, joints: np.ndarray, duration_s: float, ramp_s: float) -> None:
        self.goals.append((joints, duration_s))

    def command_gripper_pwm(self, pwm: float) -> None: ...

    def command_gripper_position(self, distance: float) -> None: ...

    def set_torque(self, enabled: bool) -> None:
        self.torque = enabled


@pytest.fixture
def arm() -> StillArm:
    return StillArm()


@pytest.fixture
def driver(arm: StillArm) -> SimulatedDriver:
    return SimulatedDriver(arm, lambda line: None)


def read(driver: SimulatedDriver) -> np.ndarray:
    position, velocity, effort = driver.joint_state()
    return read_sample(JOINT_STATE_NAMES, position.tolist(), velocity.tolist(), effort.tolist()).joints


def test_names_of_faults_and_motors_are_checked() -> None:
    assert parse_faults(["", "overload:elbow", "read_failure"]) == {"overload": "elbow", "read_failure": ""}
    with pytest.raises(ValueError, match=r"unknown fault 'fire'; known: read_failure, "):
        parse_faults(["fire"])
    with pytest.raises(ValueError, match=r"stalled needs a joint \(of waist, .*\), found 'gripper'"):
        parse_faults(["stalled:gripper"])
    with pytest.raises(ValueError, match=r"latency needs no motor, found 'elbow'"):
        parse_faults(["latency:elbow"])
    assert len(fault_table()) == len(KINDS) >= 20


def test_a_schedule_begins_and_ends_faults_and_names_a_wrong_entry() -> None:
    schedule = FaultSchedule(
        (ScheduledFault("overload:elbow", at=10.0, seconds=5.0), ScheduledFault("low_voltage", at=12.0))
    )
    times = (0.0, 9.9, 10.0, 13.0, 15.0, 1e6)
    found = [set(schedule.at(seconds)) for seconds in times]
    assert found == [set(), set(), {"overload"}, {"overload", "low_voltage"}, {"low_voltage"}, {"low_voltage"}]
    with pytest.raises(ConfigError, match=r"simulation\.faults\.1\.kind: unknown fault 'fire'"):
        FaultSchedule((ScheduledFault("latency"), ScheduledFault("fire")))


@pytest.mark.parametrize("fault", ["read_failure", "usb_unplugged", "not_a_number"])
def test_false_joint_states_are_not_believed(driver: SimulatedDriver, fault: str) -> None:
    assert read(driver) == pytest.approx(np.zeros(6))
    driver.set_faults({fault: ""})
    with pytest.raises(FailedRead):
        read(driver)
    driver.set_faults({})
    assert read(driver) == pytest.approx(np.zeros(6))


def test_an_unplugged_cable_answers_nothing_and_moves_nothing(driver: SimulatedDriver, arm: StillArm) -> None:
    driver.set_faults({"usb_unplugged": ""})
    driver.command_group("arm", [0.1] * 6)
    assert driver.get_registers("group", "all", "Torque_Enable") == [] and not arm.goals
    driver.set_faults({})
    driver.command_group("arm", [0.1] * 6)
    assert len(arm.goals) == 1 and driver.get_registers("group", "all", "Torque_Enable") == [1] * 7


def test_a_stalled_joint_pushes_and_stays(driver: SimulatedDriver, arm: StillArm) -> None:
    driver.set_faults({"stalled": "elbow"})
    driver.command_group("arm", [0.2] * 6)
    goal, _ = arm.goals[-1]
    assert goal[2] == 0.0 and goal[1] == pytest.approx(0.2)
    assert driver.joint_state()[2][2] > 3000.0


@pytest.mark.parametrize("motor", sorted(MOTOR_IDS))
def test_a_rebooted_motor_has_neither_torque_nor_profile(driver: SimulatedDriver, arm: StillArm, motor: str) -> None:
    driver.set_faults({"rebooted": motor})
    assert driver.get_registers("single", motor, "Torque_Enable") == [0]
    assert driver.get_registers("single", motor, "Profile_Velocity") == [0]
    assert arm.torque == (motor not in ARM_JOINTS)
    driver.torque_enable("single", motor, True)
    driver.set_faults({"rebooted": motor, "latency": ""})  # it happened once
    assert driver.get_registers("single", motor, "Torque_Enable") == [1]


def test_the_vendors_reboot_gives_a_shadow_no_torque(driver: SimulatedDriver) -> None:
    driver.set_faults({"motor_error": "elbow_shadow"})
    driver.reboot_motors("single", "elbow_shadow", enable=True, smart=False)
    assert driver.get_registers("single", "elbow_shadow", "Hardware_Error_Status") == [0]
    assert driver.get_registers("single", "elbow_shadow", "Torque_Enable") == [0]


def test_short_lists_lack_the_last_motor_of_a_group_alone(driver: SimulatedDriver) -> None:
    driver.set_faults({"short_registers": ""})
    assert driver.get_registers("group", "arm", "Torque_Enable") == [1] * 5
    assert driver.get_registers("single", "wrist_rotate", "Torque_Enable") == [1]


def test_supply_and_heat_are_told_before_a_motor_lets_go(driver: SimulatedDriver) -> None:
    driver.set_faults({"low_voltage": "", "hot": "elbow"})
    driver.motors.warm_since -= 60.0
    assert driver.get_registers("single", "elbow", "Present_Temperature") == [79]
    assert driver.get_registers("single", "waist", "Present_Temperature") == [35]
    health = MotorHealth()
    for name in (*MOTORS, *SHADOWS):
        health.temperature(name, driver.get_registers("single", name, "Present_Temperature")[0], 0.0)
        health.voltage(name, driver.get_registers("single", name, "Present_Input_Voltage")[0] / 10.0)
    hot, weak = health.warnings()
    assert "elbow is at 79 °C; it lets go at 80 °C" in hot and "9.8 V" in weak and "9 of 9 motors" in weak


def test_a_rising_temperature_is_told_with_the_time_that_is_left() -> None:
    health = MotorHealth()
    for seconds in range(0, 400, 10):
        health.temperature("shoulder", 50.0 + seconds / 20.0, float(seconds))  # three degrees a minute
        health.temperature("waist", 40.0, float(seconds))
    assert health.trend("shoulder") == pytest.approx(3.0, abs=0.01) and health.trend("waist") == pytest.approx(0.0)
    assert math.isnan(health.trend("elbow"))
    (told,) = health.warnings()
    left = (LIMIT_C["shoulder"] - (50.0 + 390.0 / 20.0)) / 3.0
    assert told.endswith(f"and reaches 80 °C in {left:.0f} minutes")
    assert health.report()["temperature_trend_shoulder_c_per_min"] == pytest.approx(3.0, abs=0.01)

"""A wrist motor with an alert is rebooted without a person where the station file allows it, and no more often."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import yaml
from gymnast_msgs.msg import ArmState
from interbotix_xs_msgs.srv import RegisterValues

from tests.machine import overdue
from tests.ros_tools import SIMULATED, call_reset, running_graph, set_faults, wait_active
from tests.test_ros_arm import PERIOD, Arm

WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator", "console")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm]:
    station = tmp_path_factory.mktemp("recovery") / "station.yaml"
    content = yaml.safe_load(SIMULATED.read_text(encoding="utf-8"))
    content["arm"] = {**content["arm"], "reset_seconds": 1.0, "motor_reboots_per_hour": 1}
    station.write_text(yaml.safe_dump(content), encoding="utf-8")
    with running_graph(station, WITHOUT) as (process, client):
        wait_active(client, process)
        yield Arm(client)


def register(arm: Arm, motor: str, name: str) -> list[int]:
    request = RegisterValues.Request(cmd_type="single", name=motor, reg=name)
    return list(arm.client.call(RegisterValues, "/wx250s/get_motor_registers", request).values)


def drive(arm: Arm, until: str, seconds: float) -> None:
    """Actions at 5 Hz until arm/state says `until`, or the arm is stopped."""
    began, first = time.monotonic(), len(arm.states)
    while not overdue(seconds, began):
        arm.send([0, 0.002, 0, 0, 0, 0, 1])
        told = [state for _, state in arm.states[first:]]
        if any(until in state.detail for state in told) or arm.state.mode == ArmState.MODE_STOPPED:
            break
        time.sleep(PERIOD)
    assert any(until in state.detail for _, state in arm.states[first:]), arm.state.detail


def test_one_motor_is_rebooted_gets_its_profile_back_and_the_next_alert_is_a_persons(arm: Arm) -> None:
    call_reset(arm.client)
    arm.send_accepted([0, 0, 0, 0, 0, 0, 1])
    before = arm.measured[:3]
    set_faults(arm.client, "motor_error:wrist_rotate")
    drive(arm, "it is rebooted (1 of 1 in an hour)", 8.0)
    began = time.monotonic()
    while not arm.send([0, 0, 0, 0, 0, 0, 1]).accepted and not overdue(15.0, began):
        time.sleep(PERIOD)
    assert register(arm, "wrist_rotate", "Profile_Velocity") == [250]
    assert register(arm, "wrist_rotate", "Torque_Enable") == [1]
    assert arm.state.mode != ArmState.MODE_STOPPED
    assert np.abs(arm.measured[:3] - before).max() < 0.3
    set_faults(arm.client)
    set_faults(arm.client, "motor_error:wrist_rotate")
    drive(arm, "after 1 reboots within an hour; support the arm", 8.0)
    assert arm.state.mode == ArmState.MODE_STOPPED


def test_a_motor_that_carries_the_arm_waits_for_a_person(arm: Arm) -> None:
    set_faults(arm.client)
    arm.reset()
    set_faults(arm.client, "motor_error:elbow")
    drive(arm, "motor fault: elbow", 8.0)
    assert arm.state.mode == ArmState.MODE_STOPPED and "rebooted" not in arm.state.detail
    set_faults(arm.client)

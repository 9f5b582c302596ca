"""The arm's guard names silence, overload, a jam, a deaf driver and a limp joint, and takes nothing else for them."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.robot.arm_model import WX250S
from gymnast_core.robot.gripper import FINGER_CLOSED, FINGER_OPEN, GRASP_PWM, MAX_PWM, GripperDrive
from gymnast_core.robot.guard import (
    DEAF_DISTANCE,
    DEAF_S,
    EFFORT_S,
    FRESH_S,
    JAM_S,
    LIMP_DISTANCE,
    ArmGuard,
    FaultWindow,
)

REST = np.zeros(6)
CALM = np.full(6, 200.0)


def effort(joint: int, value: float) -> np.ndarray:
    values = CALM.copy()
    values[joint] = value
    return values


def run(guard: ArmGuard, start: float, seconds: float, current: np.ndarray, target: np.ndarray | None = None) -> list:
    """Joint states of a standing arm at 100 Hz, commands at 5 Hz where there is a target; the faults seen, by kind."""
    kinds = []
    for tick in range(round(seconds * 100)):
        now = start + tick / 100
        guard.measured(REST, current, now)
        if target is not None and tick % 20 == 0:
            guard.sent(target, now)
        fault = guard.check(now)
        kinds.append(fault.kind if fault else "")
    return kinds


def test_silence_is_a_fault_and_failed_reads_are_counted() -> None:
    guard = ArmGuard(1500.0)
    guard.measured(REST, CALM, 0.0)
    assert guard.check(FRESH_S * 0.9) is None
    guard.reads_failed("1 failed reads")
    fault = guard.check(FRESH_S * 1.1)
    assert fault is not None and fault.kind == "silent" and "1 failed reads" in fault.text


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_effort_must_last_and_its_sign_does_not_matter(sign: float) -> None:
    guard = ArmGuard(1500.0)
    assert not any(run(guard, 0.0, EFFORT_S * 0.9, effort(2, sign * 1600.0)))
    assert not any(run(guard, 1.0, EFFORT_S * 0.9, effort(2, sign * 1400.0)))
    assert "overload" in run(guard, 2.0, EFFORT_S * 1.5, effort(2, sign * 1600.0))


def test_effort_that_stays_after_relaxing_is_a_jam_but_pushing_again_is_not() -> None:
    guard = ArmGuard(1500.0)
    run(guard, 0.0, 0.5, effort(1, 1700.0))
    guard.relaxed(0.5)
    assert "jammed" in run(guard, 0.5, JAM_S + 0.2, effort(1, 1700.0))
    guard = ArmGuard(1500.0)
    run(guard, 0.0, 0.5, effort(1, 1700.0))
    guard.relaxed(0.5)
    assert guard.letting_go
    run(guard, 0.5, 0.1, effort(1, 700.0))
    assert not guard.letting_go
    kinds = run(guard, 0.6, JAM_S + 1.0, effort(1, 1700.0), REST + 0.2)
    assert "jammed" not in kinds and "overload" in kinds
    guard = ArmGuard(1500.0)
    run(guard, 0.0, 0.5, effort(1, 1700.0))
    for begin in (0.5, 0.9, 1.3):  # held and pushed on in turn, while the effort never falls
        guard.relaxed(begin)
        kinds = run(guard, begin, 0.4, effort(1, 1700.0), REST + 0.2)
    assert "jammed" in kinds


def test_deaf_driver_is_told_from_a_blocked_arm() -> None:
    guard = ArmGuard(1500.0)
    run(guard, 0.0, 0.5, CALM, REST)
    assert "deaf" in run(guard, 0.5, 2 * DEAF_S + 0.3, CALM, REST + 0.2)
    blocked = ArmGuard(1500.0)
    run(blocked, 0.0, 0.5, CALM, REST)
    pushed_at = REST.copy()
    pushed_at[1] = 0.2
    assert not any(run(blocked, 0.5, 3 * DEAF_S, effort(1, 900.0), pushed_at))


def test_a_driver_that_goes_deaf_in_mid_motion_is_noticed_whatever_gravity_asks_of_the_joints() -> None:
    guard = ArmGuard(1500.0)
    run(guard, 0.0, 0.5, CALM, REST)
    joints = REST.copy()
    for tick in range(100):  # a stream of actions; it moves, and its effort changes with its pose
        now = 0.5 + tick / 100
        joints = joints + 0.005
        guard.measured(joints.copy(), CALM + 3.0 * tick, now)
        guard.sent(joints + 0.15, now)
        assert guard.check(now) is None
    stopped = CALM + 300.0
    stopped[4:] = 20.0  # the wrist carries little
    for tick in range(150):
        now = 1.5 + tick / 100
        guard.measured(joints.copy(), stopped, now)
        guard.sent(joints + 0.3, now)
        if fault := guard.check(now):
            break
    assert fault is not None and fault.kind == "deaf" and tick < 120


def test_a_joint_without_torque_is_told_from_one_that_moves_pushes_or_is_near() -> None:
    def fault_of(speed: float, current: float, distance: float) -> str:
        guard = ArmGuard(1500.0)
        joints, target = REST.copy(), REST.copy()
        target[3] = distance
        for tick in range(200):
            now = tick / 100
            joints[3] += speed / 100
            if tick % 20 == 0:
                guard.sent(target + joints, now)  # a stream keeps ahead of the arm
            guard.measured(joints.copy(), effort(3, current), now)
            fault = guard.check(now)
            if fault is not None:
                return fault.kind
        return ""

    assert fault_of(0.0, 0.0, LIMP_DISTANCE + 0.1) == "deaf"  # it stands still and does nothing
    assert fault_of(-0.2, WX250S.effort.limp - 1, LIMP_DISTANCE + 0.1) == "limp"  # it sinks
    assert not fault_of(0.0, WX250S.effort.deaf + 1, LIMP_DISTANCE + 0.1)
    assert not fault_of(0.5, 0.0, LIMP_DISTANCE + 0.1)
    assert not fault_of(0.0, 0.0, DEAF_DISTANCE - 0.01)


def test_too_many_faults_are_those_within_the_window() -> None:
    window = FaultWindow(3, 10.0)
    assert [window.add(now) for now in (0.0, 6.0, 12.0, 13.0)] == [False, False, False, True]
    assert window.count(21.0) == 2
    window.clear()
    assert window.count(21.0) == 0


def test_gripper_pwm_drives_to_the_target_rests_there_and_eases_on_an_object() -> None:
    drive = GripperDrive()
    assert drive.pwm(FINGER_OPEN, 0.0) == 0.0  # no target yet
    drive.set_target(0.0)
    assert drive.pwm(FINGER_OPEN, 0.0) == -MAX_PWM
    assert drive.pwm(FINGER_CLOSED + 0.0005, 0.1) == 0.0
    blocked = [drive.pwm(0.025, 0.2 + tick / 25) for tick in range(30)]
    assert blocked[0] == -MAX_PWM and blocked[-1] == -GRASP_PWM
    assert drive.rest(0.025, 1.5) == -GRASP_PWM  # left alone it keeps its grasp
    drive.set_target(1.0)
    assert drive.pwm(0.025, 2.0) == MAX_PWM
    assert drive.rest(0.026, 2.1) == 0.0 and drive.pwm(0.026, 2.2) == 0.0  # but pushes nowhere in mid-motion

"""Speed is limited over time: however often legal actions come, the target moves no faster, and never far ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.config import ArmConfig, SafetyConfig
from gymnast_core.robot.controller import BridgeController
from gymnast_core.robot.kinematics import forward_kinematics
from gymnast_core.robot.lease import LEASE_S, Lease
from gymnast_core.robot.pace import BURST_STEPS

ARM = ArmConfig()
SAFETY, PERIOD = SafetyConfig(), 1.0 / ARM.control_hz
DIRECTIONS = st.lists(st.sampled_from([-1.0, 0.0, 0.3, 1.0]), min_size=6, max_size=6)
LARGEST = np.array([SAFETY.max_translation] * 3 + [SAFETY.max_rotation] * 3)


def controller_at_start() -> tuple[BridgeController, np.ndarray]:
    controller = BridgeController(ARM, SAFETY)
    start = controller.start_joints()
    controller.reset_target(start)
    return controller, start


def drive(controller: BridgeController, joints: np.ndarray, direction: np.ndarray, hz: float, seconds: float) -> list:
    """The same action at `hz` on an arm that follows at once: (time, joint target, pose of the target) after each."""
    action = np.append(direction * LARGEST, 1.0)
    path = [(-1.0 / hz, joints, controller.target_pose)]
    for step in range(int(seconds * hz)):
        command = controller.step(action, joints, 0.0, step / hz)
        joints = command.joint_target
        path.append((step / hz, joints, command.target_pose))
    return path


@pytest.mark.parametrize("hz", [10.0, 100.0])
@pytest.mark.parametrize("axis", range(6))
def test_an_action_sent_more_often_moves_the_target_no_faster(hz: float, axis: int) -> None:
    controller, start = controller_at_start()
    path = drive(controller, start, np.eye(6)[axis] * (-1.0 if axis == 0 else 1.0), hz, 0.6)
    for i, (since, joints, pose) in enumerate(path):
        for now, later_joints, later_pose in path[i + 1 :]:
            steps = (now - since) / PERIOD + BURST_STEPS
            moved = np.abs(later_pose[:3, 3] - pose[:3, 3]).max()
            turn = (np.trace(later_pose[:3, :3] @ pose[:3, :3].T) - 1.0) / 2.0
            assert moved <= steps * SAFETY.max_translation + 1e-3
            assert np.arccos(np.clip(turn, -1.0, 1.0)) <= steps * SAFETY.max_rotation + 1e-3
            if now - since <= PERIOD + 1e-9:
                assert np.abs(later_joints - joints).max() <= SAFETY.max_joint_speed * PERIOD + 1e-6


@pytest.mark.parametrize("gaps", [(0.38, 0.02), (0.2, 0.2), (0.3, 0.1), (0.02, 0.38)])
def test_actions_that_jitter_about_the_control_rate_lose_nothing(gaps: tuple[float, float]) -> None:
    controller, joints = controller_at_start()
    now = 0.0
    for step in range(12):
        back = 1.0 if step % 4 < 2 else -1.0  # within the workspace and in reach
        action = np.array([0, 0.05 * back, 0, 0, 0, 0.25 * back, 1.0])
        command = controller.step(action, joints, 0.0, now)
        assert command.accepted and not {"speed_limited", "joint_speed_limited"} & set(command.events), command.events
        joints = command.joint_target
        now += gaps[step % 2]


def test_actions_of_a_stepped_simulation_are_one_period_apart() -> None:
    controller, joints = controller_at_start()
    for step in range(10):
        back = 1.0 if step % 4 < 2 else -1.0
        command = controller.step(np.array([0, 0.05 * back, 0, 0, 0, 0.25 * back, 1.0]), joints)
        assert command.accepted and "speed_limited" not in command.events
        joints = command.joint_target


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(DIRECTIONS, st.floats(0.001, 0.6)), min_size=5, max_size=40))
def test_no_joint_target_runs_ahead_of_an_arm_that_does_not_move(steps: list[tuple[list[float], float]]) -> None:
    """Blocked, deaf or without torque: what it would do when it is free again stays small."""
    controller, start = controller_at_start()
    now = 0.0
    for direction, gap in steps:
        command = controller.step(np.append(np.array(direction) * LARGEST, 1.0), start, 0.0, now)
        assert np.abs(command.joint_target - start).max() <= SAFETY.max_joint_drift + 1e-9
        away = np.linalg.norm(forward_kinematics(command.joint_target)[:3, 3] - forward_kinematics(start)[:3, 3])
        assert away <= SAFETY.max_drift + 2e-3
        now += gap


def test_a_turn_that_is_blocked_is_limited_by_name() -> None:
    controller, start = controller_at_start()
    events = [controller.step(np.array([0, 0, 0, 0, 0, 0.25, 1.0]), start).events for _ in range(10)]
    assert "joint_drift_limited" in events[-1] and not events[0]


def test_one_commander_at_a_time() -> None:
    lease = Lease()
    assert lease.holder(0.0) == "" and lease.take("a", 0.0)
    assert not lease.take("b", 1.0) and lease.other("b", 1.0) == "a" and lease.other("", 1.0) == "a"
    assert lease.take("a", 1.9) and lease.other("b", 1.9 + LEASE_S) == "a"  # kept by every sign
    lease.release("b")
    assert lease.holder(2.0) == "a"
    lease.release("a")
    assert lease.holder(2.0) == "" and lease.take("", 2.0) and lease.holder(2.0) == "unnamed"
    assert not lease.take("b", 2.0 + LEASE_S) and lease.take("b", 2.1 + LEASE_S)  # ended by silence

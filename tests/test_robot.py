"""The arm's maths: the vendor's poses, the documented composition of actions, and nothing leaves the envelope."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gymnast_core.config import ArmConfig, SafetyConfig
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.robot import safety
from gymnast_core.robot.bridge import (
    DOWN_ROTATION,
    bridge_pose_from_matrix,
    compose,
    delta_between,
    matrix_from_bridge_pose,
)
from gymnast_core.robot.controller import BridgeController
from gymnast_core.robot.kinematics import (
    JOINT_LOWER,
    JOINT_UPPER,
    forward_kinematics,
    geometric_jacobian,
    pose_matrix,
    rotation_from_euler,
    rotation_vector,
    solve_ik,
    space_jacobian,
)

START = ArmConfig().start_position
joints_inside = arrays(np.float64, 6, elements=st.floats(0.02, 0.98)).map(
    lambda u: JOINT_LOWER + u * (JOINT_UPPER - JOINT_LOWER)
)


@pytest.mark.parametrize(
    ("joints", "position"),
    [
        ([0, 0, 0, 0, 0, 0], (0.4583, 0, 0.3607)),
        ([0, -1.80, 1.55, 0, 0.8, 0], (0.1227, 0, 0.0813)),
        ([-0.13192235, -0.76238847, 0.44485444, -0.01994175, 1.7564081, -0.15953401], (0.1202, -0.0191, 0.2467)),
        ([0, 0, 0, 0, math.pi / 2, 0], (0.2998, 0, 0.2021)),
    ],
)
def test_forward_kinematics_gives_the_known_poses(joints: list[float], position: tuple[float, ...]) -> None:
    np.testing.assert_allclose(forward_kinematics(np.array(joints))[:3, 3], position, atol=1e-4)


def test_bridge_angles_of_the_neutral_pose_are_the_recorded_ones() -> None:
    neutral = np.array([-0.13192235, -0.76238847, 0.44485444, -0.01994175, 1.7564081, -0.15953401])
    np.testing.assert_allclose(
        bridge_pose_from_matrix(forward_kinematics(neutral))[3:], [-0.040, -0.127, 0.025], atol=1e-3
    )
    down = pose_matrix(DOWN_ROTATION, np.array([0.3, 0.0, 0.15]))
    np.testing.assert_allclose(bridge_pose_from_matrix(down), [0.3, 0, 0.15, 0, 0, 0], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(joints_inside)
def test_jacobian_is_the_derivative_of_forward_kinematics(joints: np.ndarray) -> None:
    step = 1e-6
    pose = forward_kinematics(joints)
    numeric = np.empty((6, 6))
    for i in range(6):
        moved = joints.copy()
        moved[i] += step
        after = forward_kinematics(moved)
        numeric[:3, i] = (after[:3, 3] - pose[:3, 3]) / step
        numeric[3:, i] = rotation_vector(after[:3, :3] @ pose[:3, :3].T) / step
    jacobian = geometric_jacobian(joints)
    np.testing.assert_allclose(jacobian, numeric, atol=1e-5)
    space = space_jacobian(joints)
    at_tip = space[3:] + np.cross(space[:3].T, pose[:3, 3]).T
    np.testing.assert_allclose(np.concatenate([at_tip, space[:3]]), jacobian, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(joints_inside, arrays(np.float64, 6, elements=st.floats(-0.15, 0.15)))
def test_inverse_kinematics_returns_to_the_pose_within_the_limits(joints: np.ndarray, offset: np.ndarray) -> None:
    target = forward_kinematics(joints)
    result = solve_ik(target, joints + offset, max_iterations=200)
    assert (result.joints >= JOINT_LOWER).all() and (result.joints <= JOINT_UPPER).all()
    found = forward_kinematics(result.joints)
    position_error = float(np.linalg.norm(found[:3, 3] - target[:3, 3]))
    rotation_error = float(np.linalg.norm(rotation_vector(found[:3, :3] @ target[:3, :3].T)))
    assert position_error == pytest.approx(result.position_error, abs=1e-9)
    if result.converged:
        assert position_error < 2e-5 and rotation_error < 2e-4
    else:  # it may not pretend: away from singular poses and limits the solution is always found
        smallest = np.linalg.svd(geometric_jacobian(joints), compute_uv=False)[-1]
        near_limit = (np.minimum(joints - JOINT_LOWER, JOINT_UPPER - joints) < 0.3).any()
        assert smallest < 0.03 or near_limit


def test_inverse_kinematics_reports_what_is_out_of_reach_and_is_quick() -> None:
    far = pose_matrix(DOWN_ROTATION, np.array([0.9, 0.0, 0.2]))
    result = solve_ik(far, np.zeros(6))
    assert not result.converged and result.position_error > 0.1
    near = BridgeController(ArmConfig(), SafetyConfig())
    goals = [near.move_to(np.array(START) + np.array([0.02 * i, 0.01 * i, 0.0])) for i in range(5)]
    times = []
    for goal in goals * 20:
        target = forward_kinematics(goal)
        begin = time.thread_time()
        assert solve_ik(target, goals[0]).converged
        times.append(time.thread_time() - begin)
    assert np.median(times) < 0.005  # of processor time; under 1 ms here


def _turn(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return rotation_vector(after[:3, :3] @ before[:3, :3].T)


def test_bridge_mode_turns_about_the_base_axes_through_the_measured_point() -> None:
    down = pose_matrix(DOWN_ROTATION, np.array(START))
    for axis in range(3):
        delta = np.zeros(6)
        delta[3 + axis] = 0.1
        after = compose(down, delta, down[:3, 3])
        np.testing.assert_allclose(_turn(down, after), delta[3:], atol=1e-9)
        np.testing.assert_allclose(after[:3, 3], START, atol=1e-12)
    pivot = np.array(START) - np.array([0.02, 0, 0])
    after = compose(down, np.array([0, 0, 0, 0, 0, 0.1]), pivot)
    np.testing.assert_allclose(after[:3, 3] - pivot, [0.02 * math.cos(0.1), 0.02 * math.sin(0.1), 0], atol=1e-12)


def test_autoeval_mode_reproduces_euler_addition_at_the_vertical() -> None:
    down = pose_matrix(DOWN_ROTATION, np.array(START))
    roll = compose(down, np.array([0.01, 0, 0, 0.1, 0, 0]), down[:3, 3], "autoeval_compat")
    np.testing.assert_allclose(_turn(down, roll), [0, 0, -0.1], atol=1e-6)
    np.testing.assert_allclose(roll[:3, 3] - down[:3, 3], [0.01, 0, 0], atol=1e-12)
    yaw = compose(down, np.array([0, 0, 0, 0, 0, 0.1]), down[:3, 3], "autoeval_compat")
    np.testing.assert_allclose(_turn(down, yaw), [0, 0, 0.1], atol=1e-6)
    # The same pitch delta again and again swings the tool between 87.1 and 92.9 degrees.
    pose = pose_matrix(rotation_from_euler(0, math.radians(87.1), 0), np.array(START))
    tilts = []
    for _ in range(4):
        pose = compose(pose, np.array([0, 0, 0, 0, math.radians(5.8), 0]), pose[:3, 3], "autoeval_compat")
        tilts.append(math.degrees(math.atan2(-pose[2, 0], pose[0, 0])))
    np.testing.assert_allclose(tilts, [92.9, 87.1, 92.9, 87.1], atol=0.01)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, 6, elements=st.floats(-0.25, 0.25)), arrays(np.float64, 3, elements=st.floats(-0.05, 0.05)))
def test_delta_between_undoes_compose(delta: np.ndarray, lag: np.ndarray) -> None:
    before = matrix_from_bridge_pose(np.array([*START, 0.1, -0.2, 0.3]))
    pivot = before[:3, 3] + lag
    np.testing.assert_allclose(delta_between(before, compose(before, delta, pivot), pivot), delta, atol=1e-9)


anything = st.one_of(
    st.floats(-0.1, 0.1),
    st.floats(-0.1, 0.1),
    st.floats(-0.1, 0.1),
    st.floats(allow_nan=True, allow_infinity=True),
)
reports = st.tuples(
    arrays(np.float64, 7, elements=anything),
    st.sampled_from(["follows", "lags", "blocked", "noise", "broken"]),
    st.one_of(st.just(0.0), st.floats(-1, 2), st.just(math.nan)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(reports, min_size=1, max_size=12), st.sampled_from(["bridge", "autoeval_compat"]), st.integers(0, 999))
def test_whatever_comes_in_the_target_stays_in_the_envelope(inputs: list, rotation: str, seed: int) -> None:
    config = SafetyConfig()
    controller = BridgeController(ArmConfig(rotation=rotation), config)  # type: ignore[arg-type]
    measured = controller.start_joints()
    controller.reset_target(measured)
    random = np.random.default_rng(seed)
    for action, behaviour, age in inputs:
        before = controller.joint_target
        shown = np.full(6, np.nan) if behaviour == "broken" else measured
        command = controller.step(action, shown, age)
        position = command.target_pose[:3, 3]
        assert np.isfinite(command.joint_target).all() and np.isfinite(command.target_pose).all()
        assert np.isfinite(command.executed_action).all() and 0.0 <= command.gripper <= 1.0
        assert (command.joint_target >= JOINT_LOWER).all() and (command.joint_target <= JOINT_UPPER).all()
        assert controller.envelope.in_workspace(position, 2e-6)
        np.testing.assert_allclose(forward_kinematics(command.joint_target), command.target_pose, atol=2e-4)
        assert np.max(np.abs(command.joint_target - before)) <= config.max_joint_speed / 5.0 + 1e-6
        assert set(command.events) <= safety.REFUSALS | safety.LIMITS
        if command.accepted:
            assert not set(command.events) & safety.REFUSALS
            assert np.isfinite(action).all() and age <= config.command_timeout_s
        else:
            assert set(command.events) & safety.REFUSALS
            np.testing.assert_array_equal(command.joint_target, before)
            assert not command.executed_action[:6].any()
        if behaviour == "follows":
            measured = command.joint_target
        elif behaviour == "lags":
            measured = measured + 0.5 * (command.joint_target - measured)
        elif behaviour == "noise":
            measured = measured + random.normal(0, 0.02, 6)


def _controller(**limits: object) -> tuple[BridgeController, np.ndarray]:
    controller = BridgeController(ArmConfig(), SafetyConfig(**limits))  # type: ignore[arg-type]
    joints = controller.start_joints()
    controller.reset_target(joints)
    return controller, joints


def test_an_action_within_the_limits_is_executed_as_it_is() -> None:
    controller, joints = _controller()
    action = np.array([0.01, -0.02, 0.01, 0.05, -0.1, 0.1, 0.3], dtype=np.float32)
    command = controller.step(action, joints)
    assert command.accepted and command.events == ()
    np.testing.assert_allclose(command.executed_action, action, atol=1e-6)
    # The next one counts from the target, though the arm droops 10 mm below it.
    drooping = solve_ik(command.target_pose - np.pad([[0.01]], ((2, 1), (3, 0))), joints).joints
    after = controller.step(np.array([0, 0, 0.01, 0, 0, 0, 1.0]), drooping)
    np.testing.assert_allclose(after.target_pose[:3, 3] - command.target_pose[:3, 3], [0, 0, 0.01], atol=1e-6)


def test_every_intervention_has_its_name() -> None:
    controller, joints = _controller()
    good = np.array([0.01, 0, 0, 0, 0, 0, 1.0])
    fresh = BridgeController(ArmConfig(), SafetyConfig())
    assert fresh.step(good, joints).events == (safety.NO_TARGET,)
    assert controller.step(np.zeros(6), joints).events == (safety.MALFORMED,)
    assert controller.step(good * np.nan, joints).events == (safety.NOT_FINITE,)
    assert controller.step(good, joints, age_s=0.5).events == (safety.STALE,)
    assert controller.step(good, np.full(6, np.nan)).events == (safety.JOINTS_INVALID,)
    big = controller.step(np.array([0.2, 0, 0, 0, 0, 0.9, 1.5]), joints)
    assert big.accepted
    assert big.events == (safety.TRANSLATION_CLIPPED, safety.ROTATION_CLIPPED, safety.GRIPPER_CLIPPED)
    np.testing.assert_allclose(big.executed_action, [0.05, 0, 0, 0, 0, 0.25, 1], atol=1e-6)


def test_a_blocked_arm_does_not_wind_the_target_up() -> None:
    controller, joints = _controller()
    for _ in range(10):
        command = controller.step(np.array([0.03, 0, 0, 0, 0, 0, 1.0]), joints)
    assert safety.DRIFT_LIMITED in command.events
    assert (
        np.linalg.norm(command.target_pose[:3, 3] - forward_kinematics(joints)[:3, 3]) < SafetyConfig().max_drift + 1e-4
    )
    np.testing.assert_allclose(command.executed_action[:3], 0, atol=1e-6)


def test_the_box_stops_the_target_and_lets_it_in_from_outside() -> None:
    controller, joints = _controller(workspace_min=(0.1, -0.2, 0.15))
    for _ in range(4):
        command = controller.step(np.array([0, 0, -0.03, 0, 0, 0, 1.0]), joints)
        joints = command.joint_target
    assert safety.WORKSPACE_CLIPPED in command.events
    assert command.target_pose[2, 3] == pytest.approx(0.15, abs=1e-9)
    below = controller.move_to((0.26, 0.0, 0.15))
    low = forward_kinematics(below)
    low[2, 3] = 0.08
    joints = solve_ik(low, below).joints
    controller.reset_target(joints)
    heights = []
    for _ in range(3):
        command = controller.step(np.array([0, 0, -0.05, 0, 0, 0, 1.0]), joints)
        assert command.accepted and safety.WORKSPACE_CLIPPED in command.events
        joints = command.joint_target
        heights.append(float(command.target_pose[2, 3]))
    np.testing.assert_allclose(heights, [0.13, 0.15, 0.15], atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(np.float64, 7, elements=st.floats(-0.1, 0.1)), min_size=1, max_size=12))
def test_dead_reckoning_is_the_controller_of_an_arm_that_follows_perfectly(actions: list[np.ndarray]) -> None:
    """As far as the limits go that need no arm: until its joints are too slow or its reach too short."""
    limits = SafetyConfig(workspace_min=(0.18, -0.1, 0.1), workspace_max=(0.34, 0.1, 0.25), max_joint_speed=10.0)
    controller = BridgeController(ArmConfig(), limits)
    joints = controller.start_joints()
    controller.reset_target(joints)
    arm = safety.DeadReckoning(ArmConfig(), limits)
    position = arm.begin(controller.pose(joints)[0].tolist())
    for action in actions:
        command = controller.step(action, joints)
        if not command.accepted:
            assert command.events[-1] == safety.UNREACHABLE
            return
        if safety.JOINT_DRIFT_LIMITED in command.events:
            return
        joints = command.joint_target
        executed, position, events = arm.follow(position, action)
        np.testing.assert_allclose(executed, command.executed_action, atol=2e-5)
        np.testing.assert_allclose(position, command.target_pose[:3, 3], atol=2e-4)
        assert set(events) == set(command.events) - {safety.JOINT_SPEED_LIMITED}
    np.testing.assert_array_equal(arm.begin(), START)


def test_joint_speed_is_limited_and_an_unreachable_target_is_refused() -> None:
    controller, joints = _controller(max_joint_speed=0.25)
    command = controller.step(np.array([0, 0.05, 0, 0, 0, 0.2, 1.0]), joints)
    assert command.accepted and safety.JOINT_SPEED_LIMITED in command.events
    assert np.max(np.abs(command.joint_target - joints)) == pytest.approx(0.05)
    assert abs(command.executed_action[5]) < 0.2
    controller, joints = _controller(workspace_max=(0.9, 0.25, 0.3))
    for _ in range(20):
        command = controller.step(np.array([0.05, 0, 0, 0, 0, 0, 1.0]), joints)
        joints = command.joint_target
    assert not command.accepted and command.events == (safety.UNREACHABLE,)


def test_narrower_joint_limits_of_the_driver_are_kept() -> None:
    lower, upper = JOINT_LOWER - 1.0, JOINT_UPPER + 1.0  # wider ones change nothing
    lower[0], upper[0] = -0.2, 0.2  # a waist with a wall beside it
    controller = BridgeController(ArmConfig(), SafetyConfig(), (lower, upper))
    joints = controller.start_joints()
    controller.reset_target(joints)
    for _ in range(6):
        command = controller.step(np.array([0, 0.03, 0, 0, 0, 0, 1.0]), joints)
        joints = command.joint_target
        assert abs(joints[0]) <= 0.2 and (joints >= JOINT_LOWER).all() and (joints <= JOINT_UPPER).all()
    assert not command.accepted and command.events == (safety.UNREACHABLE,)
    with pytest.raises(StationError, match="out of reach"):
        controller.reset_path(joints, np.array([0.0, 0.2, 0.0]), 0.04)
    with pytest.raises(ConfigError, match="waist"):
        BridgeController(ArmConfig(), SafetyConfig(), (upper, lower))


def test_reset_lifts_first_and_ends_at_the_start_pose() -> None:
    controller, _ = _controller()
    sleep = np.array([0, -1.80, 1.55, 0, 0.8, 0])
    low = controller.move_to((0.35, 0.15, 0.02))
    for begin in (sleep, low):
        path = controller.reset_path(begin, np.array([0.02, -0.03, 0.01]), 0.04)
        end = forward_kinematics(path[-1])
        np.testing.assert_allclose(end[:3, 3], np.add(START, (0.02, -0.03, 0.01)), atol=1e-4)
        np.testing.assert_allclose(bridge_pose_from_matrix(end)[3:], 0, atol=1e-3)
        assert (path >= JOINT_LOWER).all() and (path <= JOINT_UPPER).all()
        steps = np.abs(np.diff(np.vstack([begin, path]), axis=0))
        assert steps.max() < 0.5 * 3.14 * 0.04
        heights = np.array([forward_kinematics(joints)[2, 3] for joints in path])
        assert heights.min() > forward_kinematics(begin)[2, 3] - 0.005
    across = np.array([forward_kinematics(joints)[:3, 3] for joints in controller.reset_path(low, None, 0.04)])
    moved = np.linalg.norm(across[:, :2] - across[0, :2], axis=1)
    assert across[moved > 0.02, 2].min() > 0.15  # nothing is swept off the table
    with pytest.raises(StationError, match="outside the workspace box"):
        controller.reset_path(sleep, np.array([0.5, 0, 0]), 0.04)


def test_the_way_back_is_the_way_in_as_far_as_it_takes_to_be_higher() -> None:
    controller, high = _controller()
    way, joints = [high], high
    for action in [(0, 0, -0.04)] * 3 + [(0.04, 0, 0)] * 3:
        joints = controller.step(np.array([*action, 0, 0, 0, 1.0]), joints).joint_target
        way.append(joints)
    caught = controller.step(np.array([0.02, 0.01, 0.01, 0, 0, 0, 1.0]), joints).joint_target
    back = controller.way_back(caught, way, 0.04)
    assert (
        np.max(np.abs(np.diff(np.vstack((caught, back)), axis=0))) <= 0.4 * SafetyConfig().max_joint_speed * 0.04 + 1e-9
    )
    np.testing.assert_allclose(back[-1], way[1], atol=1e-9)  # 7 cm higher; the one after was 3 cm higher
    for corner in way[1:]:
        assert np.min(np.max(np.abs(back - corner), axis=1)) < 0.03, "along the way, not across"
    assert len(controller.way_back(high, [], 0.04)) == len(controller.way_back(high, [high] * 5, 0.04)) == 0
    np.testing.assert_allclose(controller.way_back(caught, way[3:], 0.04)[-1], way[3], atol=1e-9)  # nothing was higher


def test_a_start_pose_outside_the_box_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="start_position"):
        BridgeController(ArmConfig(start_position=(0.258, 0.0, 0.35)), SafetyConfig())
    with pytest.raises(ConfigError, match=r"safety\.workspace_min .* is not below workspace_max"):
        safety.DeadReckoning(ArmConfig(), SafetyConfig(workspace_min=(0.5, -0.2, 0.0)))

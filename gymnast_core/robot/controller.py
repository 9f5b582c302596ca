"""Bridge actions in, joint targets out, through the safety envelope: what the arm node and the simulated station run.

Deltas integrate on the previous target, not on the measurement, as when Bridge data was recorded; so gravity's droop
does not add up. The target is kept near the measured arm, so it does not wind up while the arm is blocked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.config import ArmConfig, SafetyConfig, StationConfig
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.bridge import DOWN_ROTATION, bridge_pose_from_matrix, compose, delta_between
from gymnast_core.robot.kinematics import (
    IKResult,
    forward_kinematics,
    pose_matrix,
    quaternion_from_rotation,
    solve_ik,
)
from gymnast_core.robot.pace import Pace
from gymnast_core.robot.safety import (
    JOINTS_INVALID,
    LEAVES_ENVELOPE,
    NO_TARGET,
    ROUNDING,
    SPEED_LIMITED,
    UNREACHABLE,
    SafetyEnvelope,
)

RESET_SPEED = 0.4
"""Fraction of the largest joint speed that a reset moves with."""
BACKED_OUT = 0.05
"""Metres that an arm was higher, where it came from, than where it is caught: from there it is lifted anew."""
SAME_PLACE = 0.01
"""Radians: joints that differ by no more are one place."""


@dataclass(frozen=True)
class JointCommand:
    """What became of one action.

    accepted: False means the target stayed and the arm holds.
    joint_target: (6,) radians, always finite and within the joint limits.
    gripper: opening, 0 closed to 1 open.
    executed_action: (7,) float32, the Bridge action that remains after the envelope; no motion when refused.
    events: names of the envelope's interventions, see `gymnast_core.robot.safety`.
    target_pose: (4, 4) of the end effector in the base frame.
    """

    accepted: bool
    joint_target: np.ndarray
    gripper: float
    executed_action: np.ndarray
    events: tuple[str, ...]
    target_pose: np.ndarray


class BridgeController:
    """Holds the target of one arm. Not thread safe; no clock of its own."""

    def __init__(
        self,
        arm: ArmConfig | StationConfig,
        safety: SafetyConfig | None = None,
        joint_limits: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        """`arm` and `safety`, or a whole station.

        joint_limits: lowest and highest radians of the six joints, where they are narrower than the arm's own.

        Raises: ConfigError when the start pose is outside the workspace box or out of reach.
        """
        if isinstance(arm, StationConfig):
            safety = safety or arm.safety
            arm = arm.arm
        self.arm = arm
        self.model = arm_model(arm.model)
        self.envelope = SafetyEnvelope(safety or SafetyConfig(), arm.control_hz, self.model)
        self._pace = Pace(self.envelope.config, arm.control_hz)
        self._clock = 0.0
        self._lower, self._upper = self.model.lower, self.model.upper
        if joint_limits is not None:
            self._lower = np.maximum(self._lower, joint_limits[0])
            self._upper = np.minimum(self._upper, joint_limits[1])
            for name, lower, upper in zip(self.model.names, self._lower, self._upper):
                if not lower < upper:
                    raise ConfigError(f"joint limits of {name}: {lower:.4f} is not below {upper:.4f} rad")
        try:
            self._joint_target = self.move_to(arm.start_position)
        except StationError as error:
            raise ConfigError(f"arm.start_position: {error}") from error
        self._target = self._forward(self._joint_target)
        self._has_target = False
        self._gripper = 1.0

    @property
    def joint_target(self) -> np.ndarray:
        """(6,) radians: the last target; the start pose before any."""
        return self._joint_target.copy()

    @property
    def target_pose(self) -> np.ndarray:
        """(4, 4) of the end effector in the base frame."""
        return self._target.copy()

    @property
    def target_bridge_pose(self) -> np.ndarray:
        """(6,) Bridge pose of the target."""
        return bridge_pose_from_matrix(self._target)

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,), metres, and orientation (4,), quaternion x y z w, of the end effector at these joints."""
        pose = self._forward(joints)
        return pose[:3, 3], quaternion_from_rotation(pose[:3, :3])

    def bridge_pose(self, joints: np.ndarray) -> np.ndarray:
        """(6,) Bridge pose at these joints."""
        return bridge_pose_from_matrix(self._forward(joints))

    def reset_target(self, joints_measured: np.ndarray) -> None:
        """Take the arm where it is as target; deltas count from here. Raises: StationError on invalid joints."""
        self._joint_target = self._valid(joints_measured)
        self._target = self._forward(self._joint_target)
        self._has_target = True

    def step(
        self, action: np.ndarray, joints_measured: np.ndarray, age_s: float = 0.0, now: float | None = None
    ) -> JointCommand:
        """One Bridge action (7,) on the target. Never raises on bad values: it refuses, by name.

        joints_measured: (6,) radians; age_s: seconds since the action was issued; now: a steady clock's seconds, None
        where every action comes one control period after the one before, as in a simulation that is stepped.
        """
        self._clock = self._clock + 1.0 / self.arm.control_hz if now is None else now
        clipped, events = self.envelope.admit(action, age_s)
        if clipped is None:
            return self._refuse(events)
        if not self._has_target:
            return self._refuse([*events, NO_TARGET])
        try:
            joints_now = self._valid(joints_measured)
        except StationError:
            return self._refuse([*events, JOINTS_INVALID])
        measured = self._forward(joints_now)[:3, 3]
        share = self._pace.share(clipped[:6], self._clock)
        if share < 1.0 - ROUNDING:
            clipped[:6] *= share
            events.append(SPEED_LIMITED)

        before, joints_before = self._target, self._joint_target
        target = compose(before, clipped[:6], measured, self.arm.rotation)
        target[:3, 3], limited = self.envelope.bound_position(target[:3, 3], before[:3, 3], measured)
        events += limited
        solution = self._solve(target, self._joint_target)
        if not solution.converged:
            return self._refuse([*events, UNREACHABLE])
        step = self._pace.joint_step(self._clock)
        joints, cut = self.envelope.limit_joints(joints_before, solution.joints, joints_now, step)
        if cut:
            events += cut
            target = self._forward(joints)
            if not self._acceptable(target[:3, 3], before[:3, 3], measured):
                return self._refuse([*events, LEAVES_ENVELOPE])

        executed = np.empty(7, dtype=np.float32)
        executed[:6] = delta_between(before, target, measured)
        executed[6] = clipped[6]
        self._pace.moved(executed[:6], joints - joints_before, self._clock)
        self._target, self._joint_target, self._gripper = target, joints, float(clipped[6])
        return self._command(True, executed, events)

    def move_to(self, position: tuple[float, float, float] | np.ndarray, seed: np.ndarray | None = None) -> np.ndarray:
        """Joints (6,) with the gripper pointing straight down at `position` (3,), base frame, metres.

        Raises: StationError when it is outside the workspace box or out of reach.
        """
        point = np.asarray(position, dtype=np.float64)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise StationError(f"position {point.tolist()} is not three finite metres")
        if not self.envelope.in_workspace(point):
            low, high = self.envelope.workspace_min.tolist(), self.envelope.workspace_max.tolist()
            raise StationError(f"position {point.tolist()} is outside the workspace box {low} to {high}")
        target = pose_matrix(DOWN_ROTATION, point)
        down = np.array(self.model.down_pose)
        turned = down.copy()
        turned[0] = math.atan2(point[1], point[0])
        turned[5] = turned[0]
        for start in ([] if seed is None else [np.asarray(seed, dtype=np.float64)]) + [down, turned]:
            solution = self._solve(target, start, max_iterations=100)
            if solution.converged:
                return solution.joints
        raise StationError(f"position {point.tolist()} is out of reach with the gripper pointing down")

    def start_joints(self, offset: np.ndarray | None = None) -> np.ndarray:
        """Joints (6,) of the configured start pose, moved by `offset` (3,), metres. Raises: StationError."""
        shift = np.zeros(3) if offset is None else np.asarray(offset, dtype=np.float64)
        return self.move_to(np.array(self.arm.start_position) + shift)

    def reset_path(self, joints_measured: np.ndarray, offset: np.ndarray | None, period_s: float) -> np.ndarray:
        """(n, 6) joints, one row per period, from the measured arm to the start pose: straight up first, then across.

        Motions are minimum-jerk, at most RESET_SPEED of the largest joint speed, reset_seconds or longer in all; the
        last row is the start pose. Raises: StationError when the start pose with its offset is out of the box.
        """
        if not period_s > 0:
            raise StationError(f"period {period_s} s is not positive")
        joints = self._valid(joints_measured)
        goal = self.start_joints(offset)
        pose = self._forward(joints)
        height = float(self._forward(goal)[2, 3])
        seconds = self.arm.reset_seconds
        legs = []
        if pose[2, 3] < height - 0.01:
            lifted = pose.copy()
            lifted[2, 3] = height
            up = self._solve(lifted, joints, max_iterations=100)
            # Where straight up is out of reach (folded arm), or takes another posture, go directly.
            if up.converged and float(np.max(np.abs(up.joints - joints))) < 1.5:
                share = (height - pose[2, 3]) / (height - pose[2, 3] + np.linalg.norm(pose[:2, 3]) + 0.1)
                legs.append(self._leg(joints, up.joints, max(0.3, float(share)) * seconds, period_s))
                joints, seconds = up.joints, seconds * (1 - max(0.3, float(share)))
        legs.append(self._leg(joints, goal, seconds, period_s))
        return np.concatenate(legs)

    def straight_path(self, joints_measured: np.ndarray, goal: np.ndarray, period_s: float) -> np.ndarray:
        """(n, 6) joints, one row per period, from the measured arm to the joints `goal` (6,): each joint goes its own
        way at the speed of a reset."""
        return self._leg(self._valid(joints_measured), goal, self.arm.reset_seconds, period_s)

    def _solve(self, target: np.ndarray, seed: np.ndarray, max_iterations: int = 40) -> IKResult:
        return solve_ik(target, seed, self._lower, self._upper, max_iterations=max_iterations, arm=self.model)

    def _forward(self, joints: np.ndarray) -> np.ndarray:
        return forward_kinematics(joints, self.model)

    def _valid(self, joints: np.ndarray) -> np.ndarray:
        """(6,) float64 within the limits: a measurement just beyond one is taken as at it. Raises: StationError."""
        try:
            values = np.asarray(joints, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise StationError(f"joints are not numbers: {joints!r}") from error
        if values.shape != (6,) or not np.isfinite(values).all():
            raise StationError(f"joints must be 6 finite radians, found {values.tolist()}")
        return np.clip(values, self.model.lower, self.model.upper)

    def way_back(self, joints_measured: np.ndarray, way: Sequence[np.ndarray], period_s: float) -> np.ndarray:
        """(n, 6) joints, one row per period, from the measured arm back along `way`, where it came from.

        way: joints (6,) measured before, oldest first. The last row is the latest of them that was BACKED_OUT higher,
        or the first of all; no row where the arm has not moved. At most RESET_SPEED of the largest joint speed.
        """
        corners = [self._valid(joints_measured)]
        height = self._forward(corners[0])[2, 3]
        for earlier in reversed(way):
            if float(np.max(np.abs(earlier - corners[-1]))) > SAME_PLACE:
                corners.append(earlier)
            if self._forward(earlier)[2, 3] > height + BACKED_OUT:
                break
        if len(corners) == 1:
            return np.empty((0, 6))
        places = np.array(corners)
        speed = RESET_SPEED * self.envelope.config.max_joint_speed
        reached = np.concatenate(([0.0], np.cumsum(np.max(np.abs(np.diff(places, axis=0)), axis=1)) / speed))
        times = period_s * np.arange(1, math.ceil(reached[-1] / period_s) + 1)
        return np.stack([np.interp(times, reached, places[:, joint]) for joint in range(6)], axis=1)

    def _leg(self, start: np.ndarray, end: np.ndarray, seconds: float, period_s: float) -> np.ndarray:
        speed = RESET_SPEED * self.envelope.config.max_joint_speed
        peak = 1.875  # a minimum-jerk motion's largest speed over its mean
        seconds = max(seconds, peak * float(np.max(np.abs(end - start))) / speed)
        steps = max(1, math.ceil(seconds / period_s))
        s = np.arange(1, steps + 1)[:, None] / steps
        return start + (10 * s**3 - 15 * s**4 + 6 * s**5) * (end - start)

    def _acceptable(self, position: np.ndarray, before: np.ndarray, measured: np.ndarray) -> bool:
        """A target cut by joint speed lies beside the wanted line: still in the box, and no farther from the arm."""
        low, high = self.envelope.box(before)
        low, high = np.minimum(low, before), np.maximum(high, before)
        allowed = max(self.envelope.config.max_drift, float(np.linalg.norm(before - measured)))
        return bool(
            (position >= low - ROUNDING).all()
            and (position <= high + ROUNDING).all()
            and np.linalg.norm(position - measured) <= allowed + ROUNDING
        )

    def _refuse(self, events: list[str]) -> JointCommand:
        still = np.zeros(7, dtype=np.float32)
        still[6] = self._gripper
        return self._command(False, still, events)

    def _command(self, accepted: bool, executed: np.ndarray, events: list[str]) -> JointCommand:
        return JointCommand(
            accepted, self._joint_target.copy(), self._gripper, executed, tuple(events), self._target.copy()
        )

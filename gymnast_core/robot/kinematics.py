"""Kinematics of an arm: forward kinematics, Jacobian, and inverse kinematics within the joint limits.

Joints are 6 radians in the order of the arm's description (`gymnast_core.robot.arm_model`). Poses are 4 x 4 matrices of
the end effector in the arm's base frame, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from gymnast_core.robot.arm_model import WX250S, ArmModel

JOINT_NAMES, JOINT_LOWER, JOINT_UPPER, JOINT_SPEED = WX250S.names, WX250S.lower, WX250S.upper, WX250S.joint_speed
"""Of the arm of Bridge data; whoever drives an arm takes its own (`tests/test_arm_model.py` holds that)."""


def _skew(v: np.ndarray) -> np.ndarray:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]], dtype=np.float64)


_EYE3 = np.eye(3)
DECIMALS = 9
"""Sums of link lengths are rounded to a nanometre: they are then the figures of the vendors' tables, bit for bit."""


def screw_axes(arm: ArmModel) -> tuple[np.ndarray, np.ndarray]:
    """What the product of exponentials needs: (6, 6), one row a joint, (angular, linear) in the base frame with all
    joints at zero; and the end effector (4, 4) then."""
    rows, frame = [], np.eye(4)
    for joint in arm.joints:
        frame = frame @ pose_matrix(rotation_from_euler(*joint.rpy), np.array(joint.origin))
        axis = np.round(frame[:3, :3] @ np.array(joint.axis, dtype=np.float64), DECIMALS)
        rows.append(np.concatenate([axis, np.round(np.cross(frame[:3, 3], axis), DECIMALS)]))
    tool = pose_matrix(rotation_from_euler(*arm.end_effector.rpy), np.array(arm.end_effector.origin))
    return np.array(rows) + 0.0, np.round(frame @ tool, DECIMALS) + 0.0  # no negative zeros


class _Chain:
    """The screws of one arm, prepared."""

    def __init__(self, arm: ArmModel) -> None:
        screws, self._home = screw_axes(arm)
        self.axes = screws[:, :3]
        self.points = np.cross(self.axes, screws[:, 3:])  # the point of each axis nearest to the origin
        self._w = np.stack([_skew(axis) for axis in self.axes])
        self._w2 = self._w @ self._w

    def motions(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(7, 4, 4): the motion of everything before joint i, and after the last; and the end effector (4, 4)."""
        sine = np.sin(joints)[:, None, None]
        versine = (1.0 - np.cos(joints))[:, None, None]
        rotations = _EYE3 + sine * self._w + versine * self._w2
        motions = np.zeros((6, 4, 4))
        motions[:, :3, :3] = rotations
        motions[:, :3, 3] = self.points - (rotations @ self.points[:, :, None])[:, :, 0]
        motions[:, 3, 3] = 1.0
        before = np.empty((7, 4, 4))
        before[0] = np.eye(4)
        for i in range(6):
            np.matmul(before[i], motions[i], out=before[i + 1])
        return before, before[6] @ self._home


_chain = cache(_Chain)


def forward_kinematics(joints: np.ndarray, arm: ArmModel = WX250S) -> np.ndarray:
    """Pose (4, 4) of the end effector in the base frame, for joints (6,) in radians."""
    return _chain(arm).motions(np.asarray(joints, dtype=np.float64))[1]


def _pose_and_jacobian(joints: np.ndarray, arm: ArmModel) -> tuple[np.ndarray, np.ndarray]:
    chain = _chain(arm)
    before, pose = chain.motions(joints)
    axes = (before[:6, :3, :3] @ chain.axes[:, :, None])[:, :, 0]
    points = (before[:6, :3, :3] @ chain.points[:, :, None])[:, :, 0] + before[:6, :3, 3]
    reach = pose[:3, 3] - points
    jacobian = np.empty((6, 6))
    jacobian[0] = axes[:, 1] * reach[:, 2] - axes[:, 2] * reach[:, 1]
    jacobian[1] = axes[:, 2] * reach[:, 0] - axes[:, 0] * reach[:, 2]
    jacobian[2] = axes[:, 0] * reach[:, 1] - axes[:, 1] * reach[:, 0]
    jacobian[3:] = axes.T
    return pose, jacobian


def geometric_jacobian(joints: np.ndarray, arm: ArmModel = WX250S) -> np.ndarray:
    """(6, 6): joint speeds to the end effector's velocity (rows 0-2) and angular velocity (3-5) along base axes."""
    return _pose_and_jacobian(np.asarray(joints, dtype=np.float64), arm)[1]


def space_jacobian(joints: np.ndarray, arm: ArmModel = WX250S) -> np.ndarray:
    """(6, 6): column i is joint i's screw (angular, linear) in the base frame at these joints."""
    chain = _chain(arm)
    before, _ = chain.motions(np.asarray(joints, dtype=np.float64))
    angular = (before[:6, :3, :3] @ chain.axes[:, :, None])[:, :, 0]
    points = (before[:6, :3, :3] @ chain.points[:, :, None])[:, :, 0] + before[:6, :3, 3]
    return np.concatenate([angular, np.cross(points, angular)], axis=1).T


def rotation_from_euler(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """(3, 3): Rz(yaw) Ry(pitch) Rx(roll), that is about fixed x, then y, then z; radians."""
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (math.cos, math.sin))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def euler_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """(3,): roll, pitch, yaw of `rotation_from_euler`, pitch in [-pi/2, pi/2]; at +-pi/2 yaw is 0."""
    r = rotation
    cosine = math.hypot(r[0, 0], r[1, 0])
    pitch = math.atan2(-r[2, 0], cosine)
    if cosine < 1e-7:
        return np.array([math.atan2(-r[1, 2], r[1, 1]), pitch, 0.0])
    return np.array([math.atan2(r[2, 1], r[2, 2]), pitch, math.atan2(r[1, 0], r[0, 0])])


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """(4,): x, y, z, w, of length 1 and w >= 0."""
    r = rotation
    trace = r[0, 0] + r[1, 1] + r[2, 2]
    # The largest of the four candidates is well away from zero, so nothing is lost near half turns.
    candidates = (r[0, 0], r[1, 1], r[2, 2], trace)
    i = max(range(4), key=candidates.__getitem__)
    q = [0.0] * 4
    if i == 3:
        q = [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], 1.0 + trace]
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q[i] = 1.0 + r[i, i] - r[j, j] - r[k, k]
        q[j] = r[j, i] + r[i, j]
        q[k] = r[k, i] + r[i, k]
        q[3] = r[k, j] - r[j, k]
    length = math.copysign(math.sqrt(sum(c * c for c in q)), q[3])
    return np.array([float(c) / length for c in q])


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """(3,): axis times angle (radians, 0 to pi) of a rotation matrix."""
    x, y, z, w = (float(c) for c in quaternion_from_rotation(rotation))
    sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < 1e-12 else 2.0 * math.atan2(sine, w) / sine
    return np.array([x * scale, y * scale, z * scale])


def pose_matrix(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(4, 4) from a rotation (3, 3) and a position (3,)."""
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = position
    return pose


@dataclass(frozen=True)
class IKResult:
    """joints: (6,) radians, always within the limits; position_error: metres; rotation_error: radians."""

    joints: np.ndarray
    converged: bool
    position_error: float
    rotation_error: float


def solve_ik(
    target: np.ndarray,
    seed: np.ndarray,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    position_tolerance: float = 1e-5,
    rotation_tolerance: float = 1e-4,
    max_iterations: int = 40,
    arm: ArmModel = WX250S,
) -> IKResult:
    """Joints that bring the end effector to `target` (4, 4), near `seed` (6,): damped least squares.

    lower, upper: (6,) radians, where they are narrower than the arm's.

    The limits hold in every iteration: a joint at its limit that would leave is frozen and the others take over. The
    damping shrinks with the error, so the solution is exact where reachable and calm where not; the best found is
    returned with converged=False when the target is out of reach.
    """
    lower = arm.lower if lower is None else lower
    upper = arm.upper if upper is None else upper
    q = np.clip(np.asarray(seed, dtype=np.float64), lower, upper)
    best, best_size = IKResult(q, False, math.inf, math.inf), math.inf
    damping = 1e-3
    for _ in range(max_iterations + 1):
        pose, jacobian = _pose_and_jacobian(q, arm)
        error = np.concatenate([target[:3, 3] - pose[:3, 3], rotation_vector(target[:3, :3] @ pose[:3, :3].T)])
        position_error = math.sqrt(float(error[:3] @ error[:3]))
        rotation_error = math.sqrt(float(error[3:] @ error[3:]))
        size = position_error + 0.2 * rotation_error
        if not math.isfinite(size):
            break
        if size < best_size:
            best, best_size = IKResult(q, False, position_error, rotation_error), size
            damping = max(1e-6, min(damping * 0.2, size * size))
        else:
            damping = min(1.0, damping * 10.0)  # no better: shorter, safer steps from the best so far
            q = best.joints
            if damping >= 1.0:
                break
            pose, jacobian = _pose_and_jacobian(q, arm)
            error = np.concatenate([target[:3, 3] - pose[:3, 3], rotation_vector(target[:3, :3] @ pose[:3, :3].T)])
        if best.position_error <= position_tolerance and best.rotation_error <= rotation_tolerance:
            return IKResult(best.joints, True, best.position_error, best.rotation_error)
        step = np.zeros(6)
        free = np.ones(6, dtype=bool)
        for _ in range(6):
            columns = jacobian * free
            step = columns.T @ np.linalg.solve(columns @ columns.T + damping * np.eye(6), error)
            leaving = free & (((q <= lower) & (step < 0)) | ((q >= upper) & (step > 0)))
            if not leaving.any():
                break
            free &= ~leaving
        step = step * free
        largest = float(np.max(np.abs(step)))
        q = np.clip(q + step * min(1.0, 0.5 / max(largest, 1e-12)), lower, upper)
    return best

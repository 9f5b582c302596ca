"""The Bridge convention: poses and actions of BridgeData V2, and how a rotation delta composes with a target.

A Bridge pose is (x, y, z, roll, pitch, yaw): position in the base frame, metres, and the Euler angles, radians, of
R Ry(pi/2)^T, so that a gripper pointing straight down has zero angles and Euler angles stay far from singular.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gymnast_core.robot.kinematics import euler_from_rotation, pose_matrix, rotation_from_euler

RotationMode = Literal["bridge", "autoeval_compat"]
DOWN_ROTATION = rotation_from_euler(0.0, math.pi / 2, 0.0)
"""Orientation of the end effector with the gripper pointing straight down: zero Bridge angles."""


def bridge_pose_from_matrix(pose: np.ndarray) -> np.ndarray:
    """Bridge pose (6,) of an end effector pose (4, 4)."""
    return np.concatenate([pose[:3, 3], euler_from_rotation(pose[:3, :3] @ DOWN_ROTATION.T)])


def matrix_from_bridge_pose(bridge_pose: np.ndarray) -> np.ndarray:
    """End effector pose (4, 4) of a Bridge pose (6,)."""
    roll, pitch, yaw = (float(angle) for angle in bridge_pose[3:6])
    return pose_matrix(rotation_from_euler(roll, pitch, yaw) @ DOWN_ROTATION, np.asarray(bridge_pose[:3]))


def compose(target: np.ndarray, delta: np.ndarray, pivot: np.ndarray, mode: RotationMode = "bridge") -> np.ndarray:
    """The next target (4, 4): `delta` (6,), metres and radians, on the previous target.

    bridge: translation along and rotation about the base axes, the rotation through `pivot` (3,), the measured end
    effector; T(pivot) [R, t] T(-pivot) target.
    autoeval_compat: the deltas are added to position and to the Euler angles of the end effector in the base frame,
    as deployed AutoEval stations do. With the gripper down that is singular: a roll delta turns about -z, and pitch
    cannot pass the vertical.
    """
    dx, dr = np.asarray(delta[:3], dtype=np.float64), [float(angle) for angle in delta[3:6]]
    if mode == "autoeval_compat":
        angles = euler_from_rotation(target[:3, :3]) + dr
        return pose_matrix(rotation_from_euler(*(float(a) for a in angles)), target[:3, 3] + dx)
    turn = rotation_from_euler(*dr)
    return pose_matrix(turn @ target[:3, :3], pivot + turn @ (target[:3, 3] - pivot) + dx)


def delta_between(before: np.ndarray, after: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """The Bridge delta (6,) that `compose` would turn `before` into `after` with: its inverse in bridge mode."""
    turn = after[:3, :3] @ before[:3, :3].T
    translation = after[:3, 3] - pivot - turn @ (before[:3, 3] - pivot)
    return np.concatenate([translation, euler_from_rotation(turn)])

"""Kinematics against an independent library: pinocchio, on a model built from the links' lengths (the vendor's URDF).

At ten thousand random poses forward kinematics and Jacobians agree. Inverse kinematics finds joints that pinocchio puts
at the pose that was asked for; GYMNAST_IK_POSES says for how many.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from gymnast_core.robot.kinematics import forward_kinematics, geometric_jacobian, rotation_vector, solve_ik

pin = pytest.importorskip("pinocchio", reason="pip install pin")

POSES = 10_000
IK_POSES = int(os.environ.get("GYMNAST_IK_POSES", "1000"))
"""Each takes some milliseconds."""
JOINTS = (  # axis, origin in the frame of the joint before (m), lowest and highest angle (rad)
    ("Z", (0.0, 0.0, 0.072), -3.14158, 3.14158),
    ("Y", (0.0, 0.0, 0.03865), -1.88495, 1.98967),
    ("Y", (0.04975, 0.0, 0.25), -2.14675, 1.6057),
    ("X", (0.175, 0.0, 0.0), -3.14158, 3.14158),
    ("Y", (0.075, 0.0, 0.0), -1.74532, 2.14675),
    ("X", (0.065, 0.0, 0.0), -3.14158, 3.14158),
)
LOWER, UPPER = (np.array([joint[which] for joint in JOINTS]) for which in (2, 3))
SLACK = 1e-4
"""Radians by which the limits here are rounded."""
TOOL = (0.043 + 0.023 + 0.027575, 0.0, 0.0)
"""From wrist_rotate to the vendor's ee_gripper frame, metres: three fixed joints."""
NEAR = 0.3
"""Radians that the seed of a search is off: more than a control step moves a joint at full speed."""


@pytest.fixture(scope="module")
def model() -> tuple:
    built = pin.Model()
    parent = 0
    for axis, origin, _, _ in JOINTS:
        joint = getattr(pin, f"JointModelR{axis}")()
        parent = built.addJoint(parent, joint, pin.SE3(np.eye(3), np.array(origin)), f"joint_{parent}")
    frame = built.addFrame(pin.Frame("ee", parent, pin.SE3(np.eye(3), np.array(TOOL)), pin.FrameType.OP_FRAME))
    return built, built.createData(), frame


def pose_of(model: tuple, joints: np.ndarray) -> np.ndarray:
    built, data, frame = model
    pin.framesForwardKinematics(built, data, joints)
    return data.oMf[frame].homogeneous


def random_joints(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(LOWER, UPPER, (count, 6))


def test_forward_kinematics_and_jacobians_are_those_of_pinocchio(model: tuple) -> None:
    built, data, frame = model
    for joints in random_joints(POSES, 1):
        assert np.abs(forward_kinematics(joints) - pose_of(model, joints)).max() < 1e-9
        jacobian = pin.computeFrameJacobian(built, data, joints, frame, pin.LOCAL_WORLD_ALIGNED)
        assert np.abs(geometric_jacobian(joints) - jacobian).max() < 1e-9


def test_inverse_kinematics_reaches_random_reachable_poses(model: tuple) -> None:
    """Seeded near, as a control step is: each is reached, within the limits, as pinocchio sees it."""
    random = np.random.default_rng(2)
    missed = []
    for joints in random_joints(IK_POSES, 3):
        target = pose_of(model, joints)
        found = solve_ik(target, joints + random.uniform(-NEAR, NEAR, 6))
        reached = pose_of(model, found.joints)
        metres = float(np.linalg.norm(reached[:3, 3] - target[:3, 3]))
        radians = float(np.linalg.norm(rotation_vector(reached[:3, :3] @ target[:3, :3].T)))
        assert (found.joints >= LOWER - SLACK).all() and (found.joints <= UPPER + SLACK).all()
        assert found.position_error == pytest.approx(metres, abs=1e-9)
        if metres > 1e-4 or radians > math.radians(0.1):
            missed.append((metres, radians))
            assert not found.converged
    print(f"{len(missed)} of {IK_POSES} poses missed")
    assert len(missed) <= IK_POSES * 0.005, missed

"""Kinematics against an independent library: pinocchio, on models built from the vendors' links, written down here.

At random poses of each arm forward kinematics and Jacobians agree. Inverse kinematics finds joints that pinocchio puts
at the pose that was asked for. GYMNAST_FK_POSES and GYMNAST_IK_POSES say at how many.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.kinematics import forward_kinematics, geometric_jacobian, rotation_vector, solve_ik

pin = pytest.importorskip("pinocchio", reason="pip install pin")

POSES = int(os.environ.get("GYMNAST_FK_POSES", "10000"))
IK_POSES = int(os.environ.get("GYMNAST_IK_POSES", "1000"))
"""Each takes some milliseconds."""
WX250S = (  # axis, origin in the frame of the joint before (m), lowest and highest angle (rad)
    ((0, 0, 1), (0.0, 0.0, 0.072), -3.14158, 3.14158),
    ((0, 1, 0), (0.0, 0.0, 0.03865), -1.88495, 1.98967),
    ((0, 1, 0), (0.04975, 0.0, 0.25), -2.14675, 1.6057),
    ((1, 0, 0), (0.175, 0.0, 0.0), -3.14158, 3.14158),
    ((0, 1, 0), (0.075, 0.0, 0.0), -1.74532, 2.14675),
    ((1, 0, 0), (0.065, 0.0, 0.0), -3.14158, 3.14158),
)
WXAI = (  # the vendor's MJCF
    ((0, 0, 1), (0.0, 0.0, 0.05725), -3.05433, 3.05433),
    ((0, 1, 0), (0.02, 0.0, 0.04625), 0.0, 3.14159),
    ((0, -1, 0), (-0.264, 0.0, 0.0), 0.0, 2.35619),
    ((0, -1, 0), (0.245, 0.0, 0.06), -1.5708, 1.5708),
    ((0, 0, -1), (0.06775, 0.0, 0.0455), -1.5708, 1.5708),
    ((1, 0, 0), (0.02895, 0.0, -0.0455), -3.14159, 3.14159),
)
TOOLS = {"wx250s": (0.043 + 0.023 + 0.027575, 0.0, 0.0), "wxai": (0.156, 0.0, 0.0)}
"""The end effector in the last joint's frame, metres."""
SLACK = 1e-4
"""Radians by which the limits here are rounded."""
NEAR = 0.3
"""Radians that the seed of a search is off: more than a control step moves a joint at full speed."""


class Peer:
    """An arm in pinocchio, and ours of the same name."""

    def __init__(self, name: str) -> None:
        joints = {"wx250s": WX250S, "wxai": WXAI}[name]
        self.arm = arm_model(name)
        self.lower, self.upper = (np.array([joint[which] for joint in joints]) for which in (2, 3))
        self.model = pin.Model()
        parent = 0
        for axis, origin, _, _ in joints:
            joint = pin.JointModelRevoluteUnaligned(np.array(axis, dtype=np.float64))
            parent = self.model.addJoint(parent, joint, pin.SE3(np.eye(3), np.array(origin)), f"joint_{parent}")
        place = pin.SE3(np.eye(3), np.array(TOOLS[name]))
        self.frame = self.model.addFrame(pin.Frame("ee", parent, place, pin.FrameType.OP_FRAME))
        self.data = self.model.createData()

    def pose(self, joints: np.ndarray) -> np.ndarray:
        pin.framesForwardKinematics(self.model, self.data, joints)
        return self.data.oMf[self.frame].homogeneous

    def random_joints(self, count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(self.lower, self.upper, (count, 6))


@pytest.fixture(scope="module", params=["wx250s", "wxai"])
def peer(request: pytest.FixtureRequest) -> Peer:
    return Peer(request.param)


def test_forward_kinematics_and_jacobians_are_those_of_pinocchio(peer: Peer) -> None:
    for joints in peer.random_joints(POSES, 1):
        assert np.abs(forward_kinematics(joints, peer.arm) - peer.pose(joints)).max() < 1e-9
        jacobian = pin.computeFrameJacobian(peer.model, peer.data, joints, peer.frame, pin.LOCAL_WORLD_ALIGNED)
        assert np.abs(geometric_jacobian(joints, peer.arm) - jacobian).max() < 1e-9


def test_inverse_kinematics_reaches_random_reachable_poses(peer: Peer) -> None:
    """Seeded near, as a control step is: each is reached, within the limits, as pinocchio sees it."""
    random = np.random.default_rng(2)
    missed = []
    for joints in peer.random_joints(IK_POSES, 3):
        target = peer.pose(joints)
        found = solve_ik(target, joints + random.uniform(-NEAR, NEAR, 6), arm=peer.arm)
        reached = peer.pose(found.joints)
        metres = float(np.linalg.norm(reached[:3, 3] - target[:3, 3]))
        radians = float(np.linalg.norm(rotation_vector(reached[:3, :3] @ target[:3, :3].T)))
        assert (found.joints >= peer.lower - SLACK).all() and (found.joints <= peer.upper + SLACK).all()
        assert found.position_error == pytest.approx(metres, abs=1e-9)
        if metres > 1e-4 or radians > math.radians(0.1):
            missed.append((metres, radians))
            assert not found.converged
    print(f"{peer.arm.title}: {len(missed)} of {IK_POSES} poses missed")
    assert len(missed) <= IK_POSES * 0.005, missed

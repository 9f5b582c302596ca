"""Recorded motions, replayed on the simulated arm, end where their actions say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.config import StationConfig, load_config
from gymnast_core.robot.droop import BLOCKED, LARGEST, DroopCorrection
from gymnast_core.robot.kinematics import rotation_vector
from gymnast_core.simulation.simulator import SimulatedStation
from gymnast_core.simulation.stepped_arm import SteppedArm

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
SCRIPTED = sorted((DATA / "autoeval_scripted").glob("*.npz"))
BRIDGE = sorted((DATA / "bridge_episodes").glob("*.npz"))
END_M, END_DEGREES = 0.005, 2.0
REST = 4
"""Control steps of standing still at the end."""


def recorded(path: Path) -> np.ndarray:
    """(T, 7) Bridge actions; WorldGym's vectors are scaled, with the gripper the other way round."""
    with np.load(path) as content:
        if "actions" in content:
            return content["actions"].astype(np.float64)
        rows = content["arr_0"].astype(np.float64)
    return np.concatenate([rows[:, :3] / 35.0, rows[:, 3:6] / 5.6, (1.0 - rows[:, 6:7]) / 2.0], axis=1)


def replay(path: Path, corrected: bool) -> tuple[float, float]:
    """Metres and degrees between the target and where the arm ends, with nothing in its way."""
    config = load_config(StationConfig, ROOT / "robot_configs" / "simulated_drawer.yaml")
    safety = dataclasses.replace(config.safety, workspace_min=(0.02, -0.4, 0.0), workspace_max=(0.55, 0.4, 0.5))
    arm = dataclasses.replace(config.arm, start_position=(0.25, 0.0, 0.25), correct_droop=corrected)
    config = dataclasses.replace(config, safety=safety, arm=arm)
    station = SimulatedStation(config)
    station.model.geom_contype[:] = station.model.geom_conaffinity[:] = 0
    stepped = SteppedArm(config, station)
    stepped.begin(np.zeros(3))
    actions = recorded(path)
    still = np.append(np.zeros(6), actions[-1, 6])
    for action in [*actions, *[still] * REST]:
        stepped.act(action)
    target, reached = stepped.target_pose, station.end_effector()
    turned = rotation_vector(target[:3, :3] @ reached[:3, :3].T)
    return float(np.linalg.norm(target[:3, 3] - reached[:3, 3])), float(np.degrees(np.linalg.norm(turned)))


@pytest.mark.skipif(not SCRIPTED, reason="the recorded motions (../shared/data) are not here")
def test_replays_end_at_the_target_of_their_actions() -> None:
    """AutoEval's scripted motions and Bridge episodes; without the correction they droop by up to a centimetre."""
    found = {path.name: replay(path, corrected=True) for path in [*SCRIPTED, *BRIDGE]}
    assert all(metres < END_M and degrees < END_DEGREES for metres, degrees in found.values()), found
    drooped, degrees = replay(SCRIPTED[-1], corrected=False)  # the farthest from the base
    assert END_M < drooped < 0.01 and degrees < END_DEGREES


def test_the_correction_is_bounded_and_forgets_and_takes_no_blocked_joint_for_droop() -> None:
    droop, target = DroopCorrection(True), np.full(6, 0.3)
    for _ in range(50):
        droop.look(target, target - 0.02)
    assert np.allclose(droop.command(target), target + LARGEST)
    droop.forget()
    assert np.array_equal(droop.command(target), target)
    droop.look(target, target - 2 * BLOCKED)
    assert np.array_equal(droop.command(target), target)
    off = DroopCorrection(False)
    off.look(target, target - 0.02)
    assert np.array_equal(off.command(target), target)

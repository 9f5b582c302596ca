"""`gymnast data view`: the arm of the MJCF is the arm of the kinematics, and a recording of Rerun holds what there
is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.data.episode import Episode
from gymnast_core.data.gymnast_episodes import write_episode
from gymnast_core.evaluation.drawn_arm import arm_model, joints_of_states
from gymnast_core.rl.films import ImaginedFilms
from gymnast_core.robot.bridge import bridge_pose_from_matrix
from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, forward_kinematics
from gymnast_core.run_folder import RunFolder
from tests.test_console import imagined

STEPS = 6


@given(st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6))
def test_the_drawn_arm_ends_where_the_kinematics_say(shares: list[float]) -> None:
    joints = JOINT_LOWER + np.array(shares) * (JOINT_UPPER - JOINT_LOWER)
    np.testing.assert_allclose(arm_model().pose("end_effector", joints), forward_kinematics(joints), atol=1e-12)


def test_a_gripper_that_opens_moves_its_fingers_apart() -> None:
    model, joints = arm_model(), np.zeros(6)
    width = [
        model.pose("left_finger_link", joints, opening)[1, 3] - model.pose("right_finger_link", joints, opening)[1, 3]
        for opening in (-1.0, 0.0, 0.5, 1.0)
    ]
    assert 0.029 < width[0] == width[1] < width[2] < width[3] < 0.075
    assert {body.joint for body in model.bodies} >= set(JOINT_NAMES)


def states() -> np.ndarray:
    """(STEPS + 1, 7) measured on the way of an arm; one was not measured, and one is out of reach."""
    found = []
    for step in range(STEPS + 1):
        pose = forward_kinematics(np.array([0.05 * step, -0.3, 0.2, 0.0, 1.4, 0.1]))
        found.append([*bridge_pose_from_matrix(pose), step / STEPS])
    found[2][0] = np.nan
    found[4][0] = 3.0
    return np.array(found, np.float32)


def test_measured_poses_become_joints_where_an_arm_can_be_there() -> None:
    joints = joints_of_states(states())
    assert [one is None for one in joints] == [False, False, True, False, True, False, False]
    for state, one in zip(states(), joints):
        if one is not None:
            np.testing.assert_allclose(forward_kinematics(one)[:3, 3], state[:3], atol=1e-3)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (STEPS + 1, 48, 48, 3)).astype(np.uint8)
    actions = generator.normal(0, 0.01, (STEPS, 7)).astype(np.float32)
    executed = actions.copy()
    executed[3] = np.nan
    stamps = np.arange(STEPS + 1, dtype=np.int64) * 200_000_000
    facts = {"task": "open_drawer", "outcome_by": "station"}
    one = Episode("open the drawer", frames, actions, executed, states(), stamps, True, True, facts)
    write_episode(tmp_path / "episodes" / "first", one)
    run = RunFolder(tmp_path / "adapt" / "one")
    ImaginedFilms(run).keep("train", 1, [imagined(1.0, 10), imagined(0.0, 60), imagined(None, 200)])
    return tmp_path


def test_without_rerun_one_line_says_how_to_get_it(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    assert main(["data", "view", str(logs / "episodes")]) == 2
    told = capsys.readouterr().err
    assert "gymnast[view]" in told and len(told.splitlines()) == 1


def test_a_recording_holds_pictures_arm_actions_and_verdicts(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunks = pytest.importorskip("rerun.chunk", reason="the extra `view` is not installed")
    out = logs / "look.rrd"
    assert main(["data", "view", str(logs / "episodes"), str(logs / "adapt" / "one"), "--out", str(out)]) == 0
    rows: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for chunk in chunks.RrdReader(str(out)).stream():
        rows[chunk.entity_path] += chunk.num_rows
        if chunk.entity_path.endswith("/facts"):
            texts[chunk.entity_path] = str(chunk.to_record_batch().to_pydict())
    assert rows["/first/camera"] == STEPS + 1 and rows["/first/action/commanded"] == STEPS + 1  # one names its lines
    assert rows["/first/action/executed"] == STEPS and rows["/first/arm/way"] == 1
    waist = next(path for path in rows if path.endswith("/shoulder_link"))
    assert rows[waist] == STEPS - 1, "two poses are not drawn"
    assert "open the drawer" in texts["/first/facts"] and "success" in texts["/first/facts"]
    films = {path for path in rows if path.startswith("/imagined_") and path.endswith("/camera")}
    assert films == {"/imagined_0_success/camera", "/imagined_1_failure/camera", "/imagined_2_abstained/camera"}
    assert all(rows[path] == 5 for path in films) and rows["/imagined_0_success/meters/round_trip"] == 1
    capsys.readouterr()
    assert main(["data", "view", str(logs / "adapt"), "--out", str(out)]) == 2
    assert "found neither an episode nor a practice" in capsys.readouterr().err
    assert main(["data", "view", str(logs / "episodes"), "--out", str(logs / "look.txt")]) == 2
    assert json.dumps(sorted(path.name for path in logs.iterdir())) == '["adapt", "episodes", "look.rrd"]'

"""Where practice begins, what it rehearses beside, and that the gate looks at the other tasks."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.frames import write_image
from gymnast_core.errors import DataError
from gymnast_core.protocols import Start, Verdict
from gymnast_core.rl.adapt_result import OtherTask
from gymnast_core.rl.gate import judge_adapter
from gymnast_core.rl.other_tasks import PER_TASK, compare_others, find_other_starts
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.rollout.starts import logged_frames, read_starts
from tests.tiny_station import INSTRUCTION, build_tiny_station, picture

OTHER = "close the drawer"


def log_episode(folder: Path, instruction: str, number: int, steps: int = 6, done_at: int | None = None) -> None:
    """An episode whose frame k is picture(100 number + k), with the arm at x = k cm."""
    with EpisodeWriter(folder / f"episode_{number:02d}", instruction, {}) as writer:
        writer.add_observation(picture(100 * number), [0.0, 0, 0, 0, 0, 0, 1])
        for step in range(steps):
            facts = {} if done_at is None else {"success": step >= done_at}
            writer.add_step([0.0] * 7, **facts)
            writer.add_observation(picture(100 * number + step + 1), [0.01 * (step + 1), 0, 0, 0, 0, 0, 1])
        writer.finish(success=done_at is not None)


def which(frame: np.ndarray) -> tuple[int, int]:
    """(episode, step) of a logged frame."""
    for number in range(8):
        for step in range(7):
            if np.array_equal(frame, picture(100 * number + step)):
                return number, step
    raise AssertionError("no logged frame")


def test_logged_starts_are_of_this_task_before_it_was_done_with_the_arm_where_it_was(tmp_path: Path) -> None:
    for number in range(4):
        log_episode(
            tmp_path,
            INSTRUCTION if number % 2 else "  Open the  Drawer" if number else "open the drawers",
            number,
            done_at=3,
        )
    log_episode(tmp_path, INSTRUCTION, 5)  # nobody knows when: its first half
    seen = set()
    for seed in range(12):
        found = logged_frames(tmp_path, INSTRUCTION, 3, seed)
        assert len(found) == 3
        again = logged_frames(tmp_path, INSTRUCTION, 3, seed)
        assert all(np.array_equal(a.frame, b.frame) for a, b in zip(found, again))
        for one in found:
            number, step = which(one.frame)
            assert number in (1, 2, 3, 5) and step <= (2 if number == 5 else 3)
            assert one.position is not None and one.position[0] == pytest.approx(0.01 * step)
            seen.add((number, step))
    assert len({step for _, step in seen}) > 2, "any step, not the first alone"
    with pytest.raises(DataError, match="no episode of 'fold the cloth'"):
        logged_frames(tmp_path, "fold the cloth", 3, 0)
    with pytest.raises(DataError, match="no such folder"):
        logged_frames(tmp_path / "nowhere", INSTRUCTION, 3, 0)


def test_a_start_frame_may_say_where_the_arm_is(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(1))
    (tmp_path / "a.json").write_text(json.dumps({"instruction": OTHER, "position": [0.3, 0, 0.1]}))
    write_image(tmp_path / "b.png", picture(2))
    (tmp_path / "b.json").write_text(json.dumps({"instruction": OTHER, "position": [300, 0, 100]}))
    (start,) = read_starts(tmp_path)
    assert start.position == (0.3, 0.0, 0.1), "and the one in millimetres is left out, with a warning"


def test_other_tasks_come_from_a_folder_from_logs_or_not_at_all(tmp_path: Path) -> None:
    station = load_config(StationConfig, build_tiny_station(tmp_path / "station"))
    logs = tmp_path / "logs"
    starts, told = find_other_starts(station, INSTRUCTION, "auto", logs, 48)
    assert not starts and f"'{OTHER}'" in told and "--rehearsal" in told
    for number in range(6):
        log_episode(logs, OTHER if number else INSTRUCTION, number)
    starts, told = find_other_starts(station, INSTRUCTION, "auto", logs, 48)
    assert len(starts) == PER_TASK and {start.instruction for start in starts} == {OTHER} and "rehearsing 4" in told
    assert sorted(which(start.frame)[0] for start in starts if start.frame is not None) == [2, 3, 4, 5], "the latest"
    assert all(start.position is not None for start in starts)
    assert find_other_starts(station, INSTRUCTION, "off", logs, 48)[0] == []
    folder = tmp_path / "frames"
    folder.mkdir()
    write_image(folder / "x.png", picture(7))
    (folder / "x.json").write_text(json.dumps({"instruction": INSTRUCTION.upper()}))
    with pytest.raises(DataError, match="another task"):
        find_other_starts(station, INSTRUCTION, str(folder), logs, 48)


def rollout(instruction: str, completed: float) -> Rollout:
    nothing = np.zeros((0, 7), np.float32)
    verdict = Verdict(None if math.isnan(completed) else completed, 1.0, "")
    return Rollout(
        Start(instruction), nothing, nothing, nothing, nothing, nothing, nothing, 0, nothing[:, 0], math.nan, (),
        np.zeros(0, bool), verdict,
    )  # fmt: skip


@given(before=st.lists(st.sampled_from((0.0, 1.0, math.nan)), min_size=8, max_size=40), seed=st.integers(0, 1000))
def test_a_fall_is_found_by_two_standard_errors_of_judged_pairs_alone(before: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    after = [value if math.isnan(value) else float(value and generator.random() < 0.5) for value in before]
    (found,) = compare_others([rollout(OTHER, v) for v in before], [rollout(OTHER, v) for v in after])
    judged = [(a, b) for a, b in zip(before, after) if not math.isnan(a)]
    assert found.pairs == len(judged)
    if len(judged) < 8:
        assert not found.fell
        return
    difference = np.array([b - a for a, b in judged])
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    assert found.fell == bool(difference.mean() < -max(2 * error, 1e-9))


def test_an_adapter_that_costs_another_task_does_not_pass_the_gate() -> None:
    before, after = [rollout(INSTRUCTION, 0.0)] * 20, [rollout(INSTRUCTION, 1.0)] * 20
    assert judge_adapter(before, after).accepted
    kept = OtherTask(OTHER, 0.98, 0.95, -0.03, 0.02, 32)
    lost = OtherTask(OTHER, 0.98, 0.25, -0.73, 0.08, 32)
    assert judge_adapter(before, after, (), (kept,)).accepted
    result = judge_adapter(before, after, (), (kept, lost))
    assert not result.accepted and result.failed_conditions == (f"another task falls: {lost.describe()}",)


def test_practice_from_several_logged_frames_with_rehearsal_says_so_on_its_page(tmp_path: Path) -> None:
    path = build_tiny_station(tmp_path / "station")
    for number in range(3):
        log_episode(tmp_path / "episodes", OTHER if number == 2 else INSTRUCTION, number)
    content = yaml.safe_load(path.read_text())
    content["recorder"] = {"folder": str(tmp_path / "episodes")}
    content["adaptation"] |= {"rehearsal": "auto", "iterations": 1, "evaluation_rollouts": 24}
    path.write_text(yaml.safe_dump(content))
    recipe = yaml.safe_load((path.parent / "recipe.yaml").read_text())
    recipe |= {"groups": 4, "branch_share": 0.25, "branch_chunks": 1, "confirm": {"noises": 1, "retreat": 1}}
    (path.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    code = main(
        ["adapt", "--frame", str(path.parent / "start.png"), "--logged", "2", "--instruction", INSTRUCTION,
         "--config", str(path), "--run", str(run), "--validation-rollouts", "8"]
    )  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert code == (0 if result["accepted"] else 1)
    assert len(result["pictures"]) == len(result["positions"]) == 3
    assert [other["instruction"] for other in result["others"]] == [OTHER]
    assert result["confirmation"] == "1 other noise, after a retreat of 1 steps by 0 0 0.02 m"
    assert sum(result["refused"].values()) <= result["successes_replayed"]
    page = (run / "report.html").read_text()
    assert "another task" in page and OTHER in page and "1 other noise" in page
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if result["iterations"]:
        assert any("validation_fall" in line for line in lines)
        assert any(f"success/{OTHER.replace(' ', '_')}" in line for line in lines), "the other task was rehearsed"


def test_a_station_file_names_frames_and_rehearsal_within_bounds(tmp_path: Path) -> None:
    station = load_config(StationConfig, build_tiny_station(tmp_path))
    assert dataclasses.replace(station.adaptation).rehearsal == "off"
    content = yaml.safe_load((tmp_path / "station.yaml").read_text())
    content["adaptation"]["frames"] = 0
    (tmp_path / "station.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(Exception, match=r"adaptation\.frames"):
        load_config(StationConfig, tmp_path / "station.yaml")

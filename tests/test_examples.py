"""Every script in `examples/` runs as its docstring says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_station import INSTRUCTION, build_tiny_station, put_on_graph

ROOT = Path(__file__).resolve().parent.parent


def run(*words: object, folder: Path = ROOT, **environment: str) -> str:
    """Run one script in a process of its own; returns what it printed. Fails the test with its errors."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / str(words[0])), *map(str, words[1:])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_policy_of_ones_own_is_measured_on_the_station() -> None:
    pytest.importorskip("mujoco")
    assert re.search(r"success \d\.\d\d ± \d\.\d\d \(n = 2\)", run("own_policy.py", 2))


def test_logged_episodes_are_judged_by_a_judge_of_ones_own_and_read_by_day(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    collect = [sys.executable, "-m", "gymnast_core.cli", "data", "collect", "--out", str(tmp_path / "logs")]
    options = ["--policy", "mixed", "--episodes", "4", "--tasks", "open_drawer", "--workers", "1"]
    subprocess.run([*collect, *options], check=True, timeout=240, capture_output=True)
    assert re.search(r"agreement (\d|nan)", run("own_judge.py", tmp_path / "logs"))
    told = run("read_a_day.py", tmp_path / "logs")
    assert "open_drawer, mixed: success" in told and "failures:" in told
    assert "success" not in run("read_a_day.py", tmp_path / "logs", "2001-01-01")


def test_practice_from_a_photograph_ends_with_a_verdict_and_a_page(tmp_path: Path) -> None:
    station = build_tiny_station(tmp_path)
    told = run("practise_from_a_photograph.py", tmp_path / "start.png", INSTRUCTION, station, folder=tmp_path)
    assert re.search(r"imagined success: [\d.]+ before, [\d.]+ after practice", told)
    assert "adapter: " in told or "the base is kept: " in told
    assert (tmp_path / "runs" / "photograph" / "report.html").is_file()


def test_ten_lines_drive_the_station(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="no ROS 2 here; run `make setup` or source one")
    pytest.importorskip("gymnast_msgs.msg", reason="the ROS interfaces are not built; run `make setup`")
    from tests.ros_tools import isolate, running_station

    path = build_tiny_station(tmp_path)
    put_on_graph(path)
    with running_station(path) as (_, raw, _station):
        told = run("drive_the_station.py", INSTRUCTION, "open_drawer", **isolate(raw.context.get_domain_id()))
    assert re.search(r"imagined success \d\.\d\d -> \d\.\d\d; /", told), told

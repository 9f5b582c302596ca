"""Tests can be trusted: they are found without ROS, begin in a clean process, and know how late the machine is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gymnast_core.errors import StationError
from gymnast_core.robot.ros_domain import claim_domain
from tests.domains import free_domain
from tests.machine import HANG_S, LATENESS, MOST, allowed, in_time

ROOT = Path(__file__).resolve().parent.parent
DIRTY = """
import os, random, signal
from pathlib import Path
import numpy as np
import torch
first = []
def leave():
    os.environ["LEFT"] = "behind"
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(3)
    numbers = (random.random(), np.random.rand(), float(torch.rand(())))
    first.append(numbers)
    assert numbers == first[0]
def clean():
    assert "LEFT" not in os.environ and Path.cwd() != Path("/")
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN and torch.get_num_threads() != 3
def test_one():
    clean()
    leave()
def test_other():
    clean()
    leave()
"""


def run_pytest(*words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)


def test_without_ros_what_needs_it_is_skipped_with_the_reason_and_the_rest_runs(tmp_path: Path) -> None:
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").write_text("raise ImportError('hidden')")
    files = ["tests/test_ros_arm.py", "tests/test_recorder_node.py", "tests/test_run_folder.py"]
    done = run_pytest("-rs", *files, path=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SKIPPED \[2\].*no ROS 2 here; run `make setup`", done.stdout), done.stdout
    assert re.search(r"[1-9]\d* passed, 2 skipped", done.stdout), done.stdout


def test_no_test_finds_what_another_left_behind(tmp_path: Path) -> None:
    (tmp_path / "test_dirty.py").write_text(DIRTY)
    done = run_pytest("-p", "tests.conftest", str(tmp_path))
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
    assert os.environ["ROS_DOMAIN_ID"] != str(free_domain())


CLAIM = "from gymnast_core.robot.ros_domain import claim_domain; print(claim_domain({0}), flush=True); input()"


def test_a_ros_domain_is_given_to_one_process_while_it_lives() -> None:
    mine = free_domain()
    with pytest.raises(StationError, match="no free ROS domain"):
        claim_domain([mine])
    refused = subprocess.run([sys.executable, "-c", CLAIM.format([mine])], capture_output=True, text=True)
    assert "no free ROS domain" in refused.stderr
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CLAIM.format("")], **pipes)
    assert process.stdout is not None
    theirs = int(process.stdout.readline())
    with pytest.raises(StationError, match="no free ROS domain"):
        claim_domain([theirs])
    process.communicate("\n")
    assert theirs != mine


def test_limits_grow_by_the_time_in_which_processes_waited_for_a_core() -> None:
    began = time.monotonic()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        while time.monotonic() - began < 1.5:
            pass
    finally:
        for process in busy:
            process.send_signal(signal.SIGKILL)
            process.wait()
    until = time.monotonic()
    assert 0.3 < LATENESS.stalled(began, until) <= until - began
    assert LATENESS.stalled(began, began) == 0.0
    assert 0.3 + 0.3 < allowed(0.3, began, until) <= MOST * 0.3
    assert in_time(0.3, began, until) == (until - began <= allowed(0.3, began, until))
    assert not in_time(0.01, began, until)

"""The demo goes through the graph's nodes alone, and ends cleanly whatever happens: one line, nothing left running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine import HANG_S, overdue
from tests.tiny_station import build_tiny_station, put_on_graph

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    path = build_tiny_station(folder)
    put_on_graph(path, safety={"workspace_min": [0.2, -0.1, 0.12], "workspace_max": [0.35, 0.1, 0.25]})
    return path


@contextlib.contextmanager
def demo(station: Path, run: Path, trials: int) -> Iterator[subprocess.Popen[str]]:
    options = ["--config", str(station), "--task", "open_drawer", "--trials", str(trials), "--run", str(run)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gymnast_core.cli", "demo", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def processes(station: Path, word: str = "") -> list[int]:
    """Processes of this station's graph whose command line also holds `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                if str(station.parent) in line and word in line:
                    found.append(int(entry.name))
    return found


def until(condition: Callable[[], object], timeout: float, what: str) -> None:
    began = time.monotonic()
    while not condition():
        assert not overdue(timeout, began), f"{what}: not within {timeout} s"
        time.sleep(0.05)


def test_ctrl_c_in_a_trial_ends_everything_with_one_line(station: Path, tmp_path: Path) -> None:
    def episodes() -> set[Path]:
        return set((station.parent / "episodes").glob("*/steps.jsonl"))

    before = episodes()
    with demo(station, tmp_path / "run", trials=20) as process:
        until(lambda: process.poll() is not None or episodes() - before, 120.0, "an episode")
        assert processes(station, "__node:=arm"), process.poll() is None or process.communicate()[0]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert [line for line in output.splitlines() if "interrupted" in line and "the arm holds" in line]
    assert "Traceback" not in output
    assert not processes(station)


def test_without_the_adapter_node_the_demo_fails(station: Path, tmp_path: Path) -> None:
    with demo(station, tmp_path / "run", trials=1) as process:
        until(lambda: process.poll() is not None or processes(station, "cli adapt"), 180.0, "a trainer")
        assert process.poll() is None, process.communicate()[0]
        (adapter,) = processes(station, "__node:=adapter")
        os.kill(adapter, signal.SIGKILL)
        output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 2
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "adapter/adapt: its node went down" in errors[0]
    assert "Traceback" not in output and not (tmp_path / "run" / "report.html").exists()
    assert not processes(station)

"""Which trials survive a SIGKILL: `python -m benchmarks.kill_trials` kills each process of trials over ROS in turn.

For each victim `gymnast trials` runs two policies on the simulated station. In the middle of the second trial or later
the victim is killed. Where the command ends early a person's part is done: the graph is started again where it died,
the arm is armed again where it is stopped (a driver that was killed has lost its arm), and the command is given again.
The table says how many trials were on record before the kill, and that all of them, and none twice, are in the result.
The exit code is 1 where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from gymnast_core.evaluation.session import TRIALS_LOG
from gymnast_core.robot.ros_domain import claim_domain
from gymnast_core.station_file import find_station_file

VICTIMS = ("gymnast trials", "evaluator", "executor", "recorder", "camera", "arm", "watchdog", "xs_sdk", "supervisor")
HEAD = ("killed", "trials before", "after", "those before kept", "twice", "calls", "seconds")
TRIALS, STEPS, CALLS = 4, 10, 4
LONG_S = 300.0


@dataclass(frozen=True)
class Row:
    """What became of the trials when one process was killed."""

    victim: str
    before: int
    after: int
    kept: bool
    twice: int
    calls: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether all trials were done, and those before the kill are the first of them."""
        return self.after == TRIALS and self.kept and not self.twice

    def __str__(self) -> str:
        kept = "yes" if self.kept else "NO"
        cells = (self.victim, self.before, self.after, kept, self.twice, self.calls, f"{self.seconds:.0f}")
        return f"| {' | '.join(map(str, cells))} |"


class Matrix:
    """A graph in a ROS domain of its own, and trials on it. folder: of everything that is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        content = yaml.safe_load(find_station_file("simulated_drawer").read_text(encoding="utf-8"))
        content["arm"]["reset_seconds"] = 1.0
        content["models"]["adapters"] = str(folder / "adapters")
        content["recorder"] = {"folder": str(folder / "episodes"), "min_free_mb": 10}
        self.station = folder / "station.yaml"
        self.station.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.push = folder / "push.npz"
        np.savez(self.push, actions=np.tile(np.float32([0.0, 0.004, 0.0, 0.0, 0.0, 0.0, 1.0]), (40, 1)))
        self.environment = {
            **os.environ, "ROS_DOMAIN_ID": str(claim_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "OMP_NUM_THREADS": "1", "GYMNAST_STATE": str(folder / "state"),
        }  # fmt: skip
        self.graph = self._up()

    def kill(self, victim: str) -> Row:
        """One row of the table."""
        run, began = self.folder / victim.replace(" ", "_"), time.monotonic()
        log = run / TRIALS_LOG
        client = self._trials(run)
        _wait(lambda: client.poll() is not None or (len(_lines(log)) > 0 and self._recording()), "a second trial")
        os.kill(client.pid if victim == "gymnast trials" else self._process_of(victim), signal.SIGKILL)
        before, calls = _lines(log), 1
        while client.wait(LONG_S) and calls < CALLS:
            if self.graph.poll() is not None or victim == "supervisor":
                self.end()
                self.graph = self._up()
            else:
                self._start("rearm", str(self.station)).wait(LONG_S)
            client, calls = self._trials(run), calls + 1
        after = _lines(log)
        numbers = [json.loads(line)["trial"] for line in after]
        kept, twice = after[: len(before)] == before, len(numbers) - len(set(numbers))
        return Row(victim, len(before), len(after), kept, twice, calls, time.monotonic() - began)

    def end(self) -> None:
        """End the graph."""
        if self.graph.poll() is None:
            self.graph.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.graph.wait(30.0)
        if self.graph.poll() is None:
            self.graph.kill()
            self.graph.wait()

    def _up(self) -> subprocess.Popen[bytes]:
        return self._start("up", str(self.station), "--without", "adapter")

    def _trials(self, run: Path) -> subprocess.Popen[bytes]:
        return self._start(
            "trials", str(self.station), "--where", "graph", "--policies", "base", str(self.push), "--task",
            "open_drawer", "--trials", str(TRIALS // 2), "--max-steps", str(STEPS), "--run", str(run),
        )  # fmt: skip

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        log = open(self.folder / f"{words[0]}.log", "ab")  # noqa: SIM115 - open as long as the process
        return subprocess.Popen(
            [sys.executable, "-m", "gymnast_core.cli", *words], env=self.environment, stdout=log, stderr=log
        )

    def _recording(self) -> bool:
        """Whether an episode is being recorded now."""
        for header in (self.folder / "episodes").glob("*/episode.json"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(header.read_text(encoding="utf-8"))["status"] == "recording":
                    return any(header.with_name("frames").glob("000002*"))
        return False

    def _process_of(self, node: str) -> int:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if f"__node:={node}\0" in words and parent == self.graph.pid:
                    return int(entry.name)
        raise SystemExit(f"node {node} has no process; see {self.folder}")


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come within {LONG_S:g} s")
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument("--folder", default="", help="for everything that is written; empty: a temporary one")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="kill_trials_")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    matrix = Matrix(folder)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    rows = []
    try:
        for victim in options.victims:
            rows.append(matrix.kill(victim))
            print(rows[-1], flush=True)
    finally:
        matrix.end()
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""`gymnast arm check` on a station file, with a graph of its own, for tests of arms."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gymnast_nodes.arm_checks import CHECKS
from tests.machine import HANG_S, LATENESS

TRIES = 3
"""What a late machine broke is checked again: an arm that was kept waiting keeps no contract."""
LATE = 0.2
"""Share of the time that this machine lost, from which on it is late."""


def keeps_the_contract(path: Path, environment: dict[str, str], skipped: tuple[str, ...] = ()) -> str:
    """Every check is kept but those that this arm skips. Returns what the graph said; skips on a machine that was late
    each time."""
    words = [sys.executable, "-m", "gymnast_core.cli", "arm", "check", str(path), "--yes", "--json"]
    wanted = {name: "skipped" if name in skipped else "kept" for name in CHECKS}
    found: dict[str, str] = {}
    for _ in range(TRIES):
        began = time.monotonic()
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=HANG_S)
        assert done.stdout and "Traceback" not in done.stderr, done.stderr[-4000:]
        rows = json.loads(done.stdout)["checks"]
        found = {row["name"]: row["verdict"] for row in rows}
        if found == wanted:
            assert done.returncode == 0
            return done.stderr
        late = LATENESS.stalled(began) / (time.monotonic() - began)
        assert late > LATE, f"{rows}\n{done.stderr[-4000:]}"
    pytest.skip(f"this machine was late each time: {found}")

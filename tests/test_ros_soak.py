"""`gymnast soak`: faults come to the station at work; each is noticed and held, and the station works again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gymnast_core.errors import ConfigError
from gymnast_core.results import read_result
from gymnast_core.soak import KindRow, SoakConfig, SoakResult, soak, table
from tests.ros_tools import ROOT, SIMULATED

KINDS = ("profile_lost", "rebooted", "foreign_commander", "stale_stamps")
"""Some that no other test of the arm injects, and that need no camera."""
WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator", "console")


def test_faults_are_noticed_and_held_and_the_station_works_again(tmp_path: Path) -> None:
    content = yaml.safe_load(SIMULATED.read_text(encoding="utf-8"))
    content["arm"] = {**content["arm"], "reset_seconds": 1.0}
    station = tmp_path / "station.yaml"
    station.write_text(yaml.safe_dump(content), encoding="utf-8")
    words = [sys.executable, "-m", "gymnast_core.cli", "soak", str(station), "--kinds", *KINDS, "--without", *WITHOUT]
    run = tmp_path / "soak"
    words += ["--run", str(run), "--seed", "3", "--json"]
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    told = f"{done.stdout}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, told
    result = read_result(SoakResult, run)
    assert result.passed and json.loads(done.stdout)["kinds"]
    rows = {row.kind: row for row in result.kinds}
    assert set(rows) == set(KINDS) and all(row.injected == row.recovered == 1 for row in rows.values()), told
    assert rows["rebooted"].rearmed == 1 and not rows["foreign_commander"].rearmed
    assert (run / "report.html").exists() and result.actions > 3 * len(KINDS)


def test_a_fault_that_nobody_noticed_is_a_failed_soak() -> None:
    kept = KindRow("latency", 2, 2, 2, 2, 0, 0, (0.5, 0.7))
    assert SoakResult("s", 1.0, 1, 10, 0, (kept,)).passed
    missed = SoakResult("s", 1.0, 1, 10, 0, (kept, KindRow("overload", 1, 0, 1, 1)))
    assert not missed.passed and table(missed).splitlines()[-1].split()[:4] == ["all", "3", "2", "3"]


def test_faults_are_for_simulated_arms(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only simulated ones take faults"):
        soak(SoakConfig(str(ROOT / "robot_configs" / "bridge_widowx.yaml")))
    with pytest.raises(ConfigError, match="kinds: found 'fire', allowed are read_failure"):
        soak(SoakConfig(kinds=("fire",)))

"""One contract for every driver: `gymnast arm check` moves the simulated arm through it over both wires.

The vendor's own package is used where it is installed; elsewhere a stand-in for it (tests/vendor).
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gymnast_core.arm_check import ArmCheckConfig, CheckRow, arm_check, table
from gymnast_core.errors import ConfigError
from gymnast_nodes.arm_checks import CHECKS
from tests.domains import free_domain, isolate
from tests.machine import HANG_S, LATENESS
from tests.ros_tools import SIMULATED

STAND_IN = Path(__file__).resolve().parent / "vendor"
INSTALLED = importlib.util.find_spec("interbotix_xs_modules") is not None


def station_file(folder: Path, driver: str) -> Path:
    content = yaml.safe_load(SIMULATED.read_text(encoding="utf-8"))
    content["arm"] = {**content.get("arm", {}), "reset_seconds": 1.0, "driver": driver}
    path = folder / f"{driver}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def environment(domain: int) -> dict[str, str]:
    """With the stand-in for the vendor's API, where there is none."""
    found = isolate(domain)
    if not INSTALLED:
        found["PYTHONPATH"] = f"{STAND_IN}{os.pathsep}{found.get('PYTHONPATH', '')}"
    return found


TRIES = 3
"""What a late machine broke is checked again: an arm that was kept waiting keeps no contract."""
LATE = 0.2
"""Share of the time that this machine lost, from which on it is late."""


def run_check(driver: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    """`gymnast arm check` with a graph of its own: exit code, result, and what it and the graph said."""
    words = [sys.executable, "-m", "gymnast_core.cli", "arm", "check", str(station_file(folder, driver)), "--json"]
    told = {**environment(free_domain()), "GYMNAST_STATE": str(folder / driver)}
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout, done.stderr[-4000:]
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("driver", ["xs_sdk", "xs_modules"])
def test_every_driver_keeps_the_contract(driver: str, tmp_path: Path) -> None:
    for _ in range(TRIES):
        began = time.monotonic()
        code, result, log = run_check(driver, tmp_path)
        broken = [row for row in result["checks"] if row["verdict"] != "kept"]
        assert "terminate called" not in log and "Traceback" not in log
        assert [row["name"] for row in result["checks"]] == list(CHECKS) and result["driver"] == driver
        assert result["kept"] == (not broken) == (code == 0)
        if not broken:
            return
        late = LATENESS.stalled(began) / (time.monotonic() - began)
        assert late > LATE, f"{broken}\n{log[-4000:]}"
    pytest.skip(f"this machine was late each time: {broken}")


def test_without_the_vendors_api_the_arm_node_says_what_to_do(tmp_path: Path) -> None:
    """The arm node ends with one line, and nothing is started again and again."""
    if INSTALLED:
        pytest.skip("the vendor's Python API is installed")
    path = station_file(tmp_path, "xs_modules")
    words = [sys.executable, "-c", "import sys; from gymnast_nodes.arm_node import main; main()"]
    words += ["--ros-args", "-r", "__node:=arm", "-p", f"config:={path}"]
    done = subprocess.run(words, env=isolate(free_domain()), capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr
    assert "arm.driver is xs_modules" in lines[0] and "set arm.driver: xs_sdk" in lines[0]


def test_a_real_arm_is_not_moved_without_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(SIMULATED.read_text(encoding="utf-8"))
    del content["simulation"]
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ConfigError, match="nobody can be asked here; give --yes"):
        arm_check(ArmCheckConfig(str(path)))


def test_the_table_says_what_is_broken() -> None:
    rows = [
        CheckRow("hold", "kept", "held"),
        CheckRow("stop", "broken", "moves on"),
        CheckRow("reboot", "skipped", "-"),
    ]
    assert table(rows).splitlines()[-1] == "broken: stop; 1 skipped"
    assert table(rows[:1]).endswith("the contract is kept (1 checks)")

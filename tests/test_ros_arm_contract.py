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
from pathlib import Path

import pytest
import yaml

from gymnast_core.arm_check import ArmCheckConfig, CheckRow, arm_check, table
from gymnast_core.errors import ConfigError
from gymnast_nodes.arm_checks import CHECKS
from tests.domains import free_domain, isolate
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


def start_check(driver: str, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "gymnast_core.cli", "arm", "check", str(station_file(folder, driver)), "--json"]
    told = {**environment(free_domain()), "GYMNAST_STATE": str(folder / driver)}
    return subprocess.Popen(words, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_driver_keeps_the_contract(tmp_path: Path) -> None:
    """Side by side, each with a graph of its own, which `arm check` starts and ends."""
    checks = {driver: start_check(driver, tmp_path) for driver in ("xs_sdk", "xs_modules")}
    try:
        for driver, process in checks.items():
            out, log = process.communicate(timeout=240)
            assert out, log[-4000:]
            result = json.loads(out)
            broken = [row for row in result["checks"] if row["verdict"] != "kept"]
            assert process.returncode == 0 and not broken, f"{driver}: {broken}\n{log[-4000:]}"
            assert "terminate called" not in log and "Traceback" not in log
            assert result["kept"] and result["driver"] == driver
            assert [row["name"] for row in result["checks"]] == list(CHECKS)
    finally:
        for process in checks.values():
            process.kill()
            process.communicate()


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

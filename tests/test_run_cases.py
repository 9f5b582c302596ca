"""The runner of cases: a case is right by its exit code, or by what it prints, and nothing it started stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POWER_CUT = """rc 0\nreads b_empty 19 steps\nreads c_nul 18 steps\nreads e_lost {e}\n"""


def case(folder: Path, name: str, script: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "run.sh").write_text(script)


def test_cases_are_judged_by_exit_code_or_by_what_they_print(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    case(folder, "a_right", "echo all well")
    case(folder, "b_wrong", "echo oh; exit 1")
    case(folder, "c_hangs", f"sleep 300 & echo $! > {tmp_path}/child; wait")
    case(folder, "robot_power_cut_frames", "printf '" + POWER_CUT.format(e="19 steps") + "'; exit 1")
    case(folder, "robot_two_joint_state_publishers", "echo nothing is said")
    (folder / "rig").mkdir()
    line = [sys.executable, "tools/run_cases.py", str(folder), "--timeout", "3", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    rows = {
        " ".join(row.split()[: row.split().index(word)]): word
        for row in done.stdout.splitlines()
        for word in ("right", "WRONG")
        if word in row.split()
    }
    assert rows.pop("2 of 6", "") == "right" and done.returncode == 4, done.stdout + done.stderr
    assert {name for name, word in rows.items() if word == "right"} == {"a_right", "robot_power_cut_frames"}
    assert "still running after 3 s" in done.stdout and "give a recorded log" in done.stdout
    assert (tmp_path / "kept" / "a_right.txt").read_text() == "all well\n"
    child = int((tmp_path / "child").read_text())
    assert not Path(f"/proc/{child}").exists()

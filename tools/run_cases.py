"""Run every case of a folder and judge it: `python tools/run_cases.py FOLDER`.

A case is a folder with a README.md and a `run.sh` or `make_and_recover.py`, which is run from the project's root. It
is right when it exits with 0. Cases that only show what happens (listed in `EXPECTATIONS` by name) are judged by what
they print: text that must stand there, text that must not, and figures with a limit. Such a case may be run several
times with other arguments; each run has a line of its own in the table.

Examples:
    python tools/run_cases.py FOLDER
    python tools/run_cases.py FOLDER --only exif_photo --keep OUTPUTS
    python tools/run_cases.py FOLDER --log EPISODE/log/log_0.mcap --lock /tmp/ros.lock
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG = "{log}"
"""In an expectation's arguments: the recorded log (.mcap) given with --log."""


@dataclass(frozen=True)
class Expectation:
    """What one run of a case must print; patterns are regular expressions, searched in stdout and stderr together."""

    arguments: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    """Each of these stands in the output."""
    never: tuple[str, ...] = ("Traceback",)
    """None of these stands in the output."""
    at_most: tuple[tuple[str, float], ...] = ()
    """Patterns with one group each, and the largest value it may have wherever it is found; it must be found."""
    at_least: tuple[tuple[str, float], ...] = ()
    """The same with the smallest value."""
    silent: str = ""
    """Text that says that there was nothing to measure: then no figure is needed."""


JUMP = r"largest jumps \(rad, m\): \[\((\d[\d.]*)"
"""The farthest that any joint was told to go between two commands, in radians."""
FAR = r"farther than 0.6 rad from where the arm was: \d+ largest (\d[\d.]*)"
"""The farthest that any joint was told to go from where it was, in radians."""
SWING = r'"largest_motion_rad": (\d[\d.e-]*)'
"""The farthest that any joint of the arm moved after the bad sample, in radians."""
NO_COMMAND = r"max\(\) arg is an empty sequence"
"""What the cases' own script says of an arm that was sent nothing."""
STILL = ((JUMP, 0.3), (FAR, 0.6))
PICTURE_AFTER = r"picture logged before it was taken ([+-][\d.]+) s"
"""When a picture that stands before an action was taken, in seconds after that action was sent."""

EXPECTATIONS: dict[str, tuple[Expectation, ...]] = {
    "robot_joint_state_spike": (
        *(Expectation((kind,), (r"executed: \{.*'ok",), at_most=STILL) for kind in ("ticks", "single", "nan", "allpi")),
        Expectation(("ticks", "physics"), at_most=((SWING, 0.05),)),
    ),
    "robot_two_joint_state_publishers": tuple(
        Expectation(
            given,
            (r"2 nodes publish /wx250s/joint_states", "refused:other_speakers|refused: other_speakers"),
            never=(),
            at_most=STILL,
            silent=NO_COMMAND,
        )
        for given in ((), (LOG,))
    ),
    "robot_second_commander": (Expectation((), ("joint_group", "other_script", "refused")),),
    "robot_two_graphs_one_domain": (
        Expectation(
            (),
            (r"is in the ROS graph 2 times|another graph has nodes of the same names",),
            never=(),
            at_most=((r"the other lab's arm:\n.*" + FAR, 0.3),),
            silent=NO_COMMAND,
        ),
    ),
    "robot_clock_set_back": tuple(
        Expectation(
            (seconds,),
            ("effort of shoulder is",),
            never=("Traceback", r"longest silence of arm/state ([2-9]|\d\d)\."),
            at_most=((r"executed: \{'ok': (\d+)", 30),),  # of 50 actions, at 5 Hz, with the overload after about 15
        )
        for seconds in ("10", "0")
    ),
    "robot_use_sim_time": (Expectation((), (r"use_sim_time.*(/clock|refused|not)",)),),
    "robot_camera_stamps": tuple(
        Expectation((kind,), at_most=((PICTURE_AFTER, 0.0),), at_least=((PICTURE_AFTER, -1.0),))
        for kind in ("future=5", "future=0.3", "zero", "order", "ok")
    ),
    "robot_other_arm_model": (Expectation((), ("this is no WidowX",), never=("reset: True", "executed:")),),
    "robot_yaml_duplicate_section": (
        Expectation((), (r"'safety' stands there twice \(lines \d+ and \d+\)",), never=()),
    ),
    "robot_default_dds_camera": (
        Expectation((), at_least=((r"the same, subscribed to reliably: +(\d+) frames", 90),)),
    ),
    "robot_mcap_damaged_chunk": (
        Expectation(
            (),
            tuple(rf"== {name}: rc 0\n.*\b3 steps" for name in ("cut", "flipped", "zeros", "zeros_lz4", "zeros_zstd"))
            + tuple(rf"== {name}: rc 0\n.*log of 40 messages" for name in ("garbage_63", "zero_tail", "short_record")),
            never=("Traceback", r"status now: recording"),
            at_least=((r"log of (\d+) messages", 35),),
        ),
    ),
    "robot_power_cut_frames": (
        Expectation(
            (),
            (r"rc 0", r"reads b_\w+ 19 steps", r"reads c_\w+ \d+ steps", r"reads e_\w+ 19 steps"),
            never=("Traceback", "CANNOT READ"),
        ),
    ),
}
"""Case -> the runs by which it is judged. A case that is not named here is right when it exits with 0."""


@dataclass(frozen=True)
class Verdict:
    """What came of one run of a case."""

    case: str
    right: bool
    seen: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print the table; returns how many runs were wrong (at most 255)."""
    options = parse(arguments)
    cases = sorted(
        f for f in options.folder.iterdir() if program_of(f) and (not options.only or f.name in options.only)
    )
    missing = set(options.only) - {f.name for f in cases}
    if missing or not cases:
        sys.exit(f"{options.folder}: no case {', '.join(sorted(missing)) or '(a folder with run.sh)'}")
    verdicts = []
    for case in cases:
        for expectation in EXPECTATIONS.get(case.name, (None,)):
            verdicts.append(run_case(case, expectation, options))
            print(row(verdicts[-1]), flush=True)
    wrong = [v for v in verdicts if not v.right]
    print(f"{len(verdicts) - len(wrong)} of {len(verdicts)} right in {sum(v.seconds for v in verdicts):.0f} s")
    return min(len(wrong), 255)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="these cases, by name")
    parser.add_argument("--log", type=Path, help="a recorded log (.mcap) for the runs that play one")
    parser.add_argument("--keep", type=Path, help="write what each run printed into this folder")
    parser.add_argument("--lock", type=Path, help="hold this file locked while a case of the robot runs")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for one run")
    options = parser.parse_args(arguments)
    options.folder = options.folder.resolve()
    return options


def program_of(case: Path) -> list[str]:
    """The command that runs a case; empty where the folder holds none."""
    if (case / "run.sh").is_file():
        return ["bash", str(case / "run.sh")]
    if (case / "make_and_recover.py").is_file():
        return [sys.executable, str(case / "make_and_recover.py")]
    return []


def run_case(case: Path, expectation: Expectation | None, options: argparse.Namespace) -> Verdict:
    """Run a case once and judge what it printed, or its exit code where nothing is expected of the text."""
    given = expectation.arguments if expectation else ()
    name = " ".join((case.name, *("LOG" if a == LOG else a for a in given)))
    if LOG in given and options.log is None:
        return Verdict(name, False, "not run: give a recorded log with --log", 0.0)
    line = program_of(case) + [str(options.log.resolve()) if a == LOG else a for a in given]
    with locked(options.lock if case.name.startswith("robot_") else None):
        began = time.monotonic()
        code, text = run(line, options.timeout)
        seconds = time.monotonic() - began
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        (options.keep / f"{name.replace(' ', '_')}.txt").write_text(text)
    if code is None:
        return Verdict(name, False, f"still running after {options.timeout:.0f} s", seconds)
    if expectation is None:
        return Verdict(name, code == 0, f"exit code {code}: {last_line(text)}", seconds)
    faults = faults_in(text, expectation)
    return Verdict(name, not faults, "; ".join(faults) or "as expected: " + evidence(text, expectation), seconds)


def run(line: list[str], timeout: float) -> tuple[int | None, str]:
    """Exit code (None where it was ended at the timeout) and everything that a command printed.

    It works in a temporary folder of its own, and in a process group that is ended with it.
    """
    scratch = Path(tempfile.mkdtemp(prefix="case-"))
    output = scratch / "output.txt"
    # A stop that a case latches outlives its run, on purpose: each has a state folder of its own.
    environment = {**os.environ, "OUT": str(scratch), "TMPDIR": str(scratch), "GYMNAST_STATE": str(scratch / "state")}
    environment.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    environment.setdefault("GYMNAST", str(ROOT))
    with output.open("wb") as file:
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    text = output.read_text(errors="replace")
    shutil.rmtree(scratch, ignore_errors=True)
    return code, text


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever a case left running: politely, then at once."""
    for sent, wait in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
            end = time.monotonic() + wait
            while time.monotonic() < end:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.1)


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold a file locked, so that cases of the robot do not share a machine with other users of ROS."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def faults_in(text: str, expected: Expectation) -> list[str]:
    """What is wrong with an output, one claim each; empty where it is right."""
    faults = [f"nowhere: {p}" for p in expected.says if not re.search(p, text)]
    faults += [f"says: {found.group(0)}" for p in expected.never if (found := re.search(p, text))]
    for limits, upper in ((expected.at_most, True), (expected.at_least, False)):
        for pattern, limit in limits:
            values = [float(v) for v in re.findall(pattern, text)]
            if not values:
                if not (expected.silent and re.search(expected.silent, text)):
                    faults.append(f"no figure: {pattern}")
            elif upper and max(values) > limit:
                faults.append(f"{max(values):g} > {limit:g}: {pattern}")
            elif not upper and min(values) < limit:
                faults.append(f"{min(values):g} < {limit:g}: {pattern}")
    return faults


def evidence(text: str, expected: Expectation) -> str:
    """The first texts and the worst figures by which an output was found right."""
    found = [f"'{match.group(0)[:60]}'" for p in expected.says[:2] if (match := re.search(p, text))]
    for limits, word, worst in ((expected.at_most, "at most", max), (expected.at_least, "at least", min)):
        for pattern, _ in limits:
            values = [float(value) for value in re.findall(pattern, text)]
            found.append(f"{word} {worst(values):g}" if values else "nothing to measure")
    return ", ".join(found)


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "(nothing printed)")


def row(verdict: Verdict) -> str:
    """One line of the table."""
    word = "right" if verdict.right else "WRONG"
    return f"{verdict.case:<42} {word}  {verdict.seconds:5.0f} s  {' '.join(verdict.seen.split())[:200]}"


if __name__ == "__main__":
    sys.exit(main())

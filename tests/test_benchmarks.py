"""Measuring on a GPU works the first time: its commands are ones there are, and a failure or a cut loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tyro

from benchmarks import gpu, grpo, policy, world_model
from benchmarks.measure import Budget, Report, fits

COMMANDS = [(command, toy) for part in gpu.PARTS.values() for command in part for toy in (False, True)]


@pytest.mark.parametrize(("command", "toy"), COMMANDS, ids=lambda value: getattr(value, "name", str(value)))
def test_every_command_and_its_retries_are_understood(
    command: gpu.Command, toy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for extra in ("", *command.otherwise):
        text = f"{command.toy if toy else command.arguments} {extra}".format(seconds=10)
        _, module, *rest = text.split()
        monkeypatch.setattr("sys.argv", ["x", *rest, "--out", "o"])
        if module == "benchmarks.policy":
            assert tyro.cli(policy.BenchmarkConfig, args=[*rest, "--out", "o"]).out == "o"
        elif module.startswith("benchmarks."):
            options = {"benchmarks.world_model": world_model, "benchmarks.grpo": grpo}[module].arguments()
            assert options.out == "o" and (not extra or options.compile is False or options.backend is None)
        else:
            assert module in ("pytest", "tests.parity.world_model")


def test_a_part_survives_failures_and_cuts_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LEAST", 1.0)
    script = tmp_path / "hangs.py"
    script.write_text(
        "import pathlib, sys, time\nfolder = pathlib.Path(sys.argv[1])\nfolder.mkdir()\n"
        "(folder / 'hangs.json').write_text('{\"rows\": [7]}')\n"
        "(folder / 'hangs.md').write_text('| 7 |')\ntime.sleep(99)\n"
    )
    runner = gpu.Runner("part", tmp_path / "out", 60, gpu.prepared(tmp_path))
    fails = "-c raise(SystemExit(0if'--again'in(__import__('sys').argv)else(3)))"
    gpu.run_part(
        [
            gpu.Command("fails", 20, fails, "", ("--again",)),
            gpu.Command("hangs", 6, f"{script} {runner.work / 'hangs'}", ""),
            gpu.Command("last", 20, "-c print(40+2)", ""),
        ],
        runner,
    )
    told = (tmp_path / "out" / "part.md").read_text()
    for line in (
        "fails: failed with code 3",
        "fails: ended well",
        "hangs: cut at 6 s",
        "| 7 |",
        "last: ended well",
        "42",
    ):
        assert line in told
    assert json.loads((tmp_path / "out" / "part.json").read_text())["hangs"] == {"rows": [7]}
    runner.close()


def test_a_report_goes_on_after_a_failure_and_says_what_was_left_out(tmp_path: Path) -> None:
    report = Report("name", str(tmp_path))
    report.table("batch", "rate")
    with report.attempt("batch 64"):
        raise RuntimeError("out of memory")
    assert report.exit_code() == 1
    report.row(8, 1.5)
    assert not fits(report, Budget(1), "batch 1", 100) and fits(report, Budget(0), "batch 1", 100)
    kept = json.loads((tmp_path / "name.json").read_text())
    assert kept["rows"] == [{"batch": "8", "rate": "1.5"}] and "out of memory" in kept["failures"][0]
    assert "| batch 64: failed (out of memory) |" in (tmp_path / "name.md").read_text()
    assert "left out" in (tmp_path / "name.md").read_text() and report.exit_code() == 0

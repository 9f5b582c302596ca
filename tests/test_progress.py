"""Progress: plain lines with the time left where the output is no terminal, also while the work says nothing."""

from __future__ import annotations

import time

import pytest

from gymnast_core.progress import Lines, busy, console, progress_bar
from tests.machine import HANG_S


def test_without_a_terminal_lines_say_how_far_it_is_whatever_the_work_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not console.is_terminal
    monkeypatch.setattr(Lines, "seconds", 0.01)
    until, told = time.monotonic() + HANG_S, ""
    with busy("loading judge", seconds=0.01):
        while "loading judge: 0:0" not in told and time.monotonic() < until:
            time.sleep(0.01)
            told += capsys.readouterr().err
    assert "loading judge: 0:0" in told and " gone" in told
    with progress_bar() as bar:
        row = bar.add_task("judging", total=40, note="")
        for _ in range(3):
            bar.update(row, advance=4, note="success 0.50")
        until = time.monotonic() + HANG_S
        while "judging: 12 of 40" not in told and time.monotonic() < until:  # the work itself says nothing more
            time.sleep(0.01)
            told += capsys.readouterr().err
        bar.update(row, completed=40)
    line = next(line for line in told.splitlines() if line.startswith("judging: 12 of 40"))
    assert " gone" in line and " left; success 0.50" in line
    bar_at_the_end = capsys.readouterr().err
    assert "40/40" in bar_at_the_end
    with progress_bar(lines=False) as bar:
        assert not isinstance(bar, Lines), "for a caller that says lines of its own"

"""A verb of `gymnast` in a process of its own, at a lower priority than everything that moves the arm.

What it needs is written into a folder, what it does is read from there, and it dies with the node that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from gymnast_core.errors import DataError, StationError
from gymnast_core.verb_process import how_it_ended, last_words, start_verb
from gymnast_nodes.calls import Cancelled
from gymnast_nodes.long_action import Goal

POLL_S = 0.1
CANCEL_GRACE_S = 0.5
"""Between SIGINT and SIGKILL: a cancel is answered within a second."""
NICENESS = 10


class VerbProcess:
    """At most one process at a time. name: of what it does, for errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 where there is no process."""
        return self._process.pid if self._process is not None else 0

    def run(
        self,
        goal: Goal[Any],
        verb: str,
        options: Path,
        log: Path,
        limit_s: float,
        step: Callable[[], None],
        ends: Sequence[int] = (0,),
    ) -> None:
        """Run a verb to its end, for a goal. options: its config file. step: called ten times a second.

        Raises: StationError when it dies, ends with another code than `ends`, or takes longer than `limit_s`; DataError
        where no log can be written; Cancelled. It has ended by then.
        """
        deadline = time.monotonic() + limit_s
        try:
            with _open_log(log) as stream:
                # One core is left to the graph: more compute threads than free cores make all of them wait.
                threads = str(max(1, (os.cpu_count() or 2) - 1))
                environment = {"OMP_NUM_THREADS": threads, **os.environ, "COLUMNS": "160"}
                process = start_verb(verb, options, stream, NICENESS, signal.SIGKILL, environment)
                self._process = process
            try:
                while process.poll() is None:
                    goal.sleep_until(time.monotonic() + POLL_S)
                    step()
                    if time.monotonic() > deadline:
                        raise StationError(f"{self._name} did not end within {limit_s:.0f} s; it was stopped")
            except (Cancelled, StationError):
                _interrupt(process)
                raise
            step()
            code = process.returncode
            if code not in ends:
                raise StationError(f"{self._name} ended {how_it_ended(code)}: {last_words(log)} (log: {log})")
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process at once, if there is one."""
        process = self._process
        if process is not None and process.poll() is None:
            _signal_group(process, signal.SIGKILL)
            process.wait(2.0)
        self._process = None


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ask for an end, and wait a moment for it."""
    if process.poll() is not None:
        return
    _signal_group(process, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(CANCEL_GRACE_S)


def _open_log(path: Path) -> BinaryIO:
    """Raises: DataError naming the path."""
    try:
        return open(path, "wb")
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}; free disk space") from error


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return

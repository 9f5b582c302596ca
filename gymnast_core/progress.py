"""Progress bars with time left, and interruption that ends a run at a safe place."""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)


def progress_bar() -> Progress:
    """A bar with a count, the time gone, the time left and a free text field `note`; use as a context manager.

    Add tasks with `bar.add_task("title", total=n, note="")`.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class Interruption:
    """Becomes true once the run was asked to stop (SIGINT, SIGTERM); a second signal stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.at = 0.0

    def __bool__(self) -> bool:
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.at = time.monotonic()
        console.print("stopping at the next safe place; once more to stop now")


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within the block SIGINT and SIGTERM set the yielded flag, so that a loop can save and leave."""
    interruption = Interruption()
    previous = {number: signal.signal(number, interruption._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interrupts() -> Iterator[None]:
    """SIGTERM ends the block like SIGINT: by KeyboardInterrupt, at once; what is on disk is whole at any moment."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever owns it handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """In a child: ask Linux for SIGTERM when the parent dies, so that a killed parent leaves nobody behind."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG

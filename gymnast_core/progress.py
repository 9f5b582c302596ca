"""Progress with the time left, as bars or as plain lines, and interruption that ends a run at a safe place."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
LINE_S = 15.0
"""How often a line says how far something is, where the output is no terminal."""
STOPPING = b"\nstopping at the next safe place; once more to stop now\n"


class Lines(Progress):
    """Progress where the output is no terminal: a line for each unfinished task every `seconds`, whatever the work does
    meanwhile, and the bars as they stood at the end."""

    seconds = LINE_S

    def start(self) -> None:
        """Begin to say lines."""
        super().start()
        self._over = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        self._speaker.start()

    def stop(self) -> None:
        """Say no further line, and show the bars."""
        self._over.set()
        self._speaker.join()
        super().stop()

    def _speak(self) -> None:
        while not self._over.wait(self.seconds):
            for task in self.tasks:
                if not task.finished:
                    say(line_of(task))


def line_of(task: Task) -> str:
    """How far a task is: "judging: 12 of 40, 1:05 gone, about 2:30 left; success 0.50"."""
    count = f"{task.completed:g}" if task.total is None else f"{task.completed:g} of {task.total:g}"
    told = f"{task.description}: {count}, {_clock(task.elapsed or 0.0)} gone"
    if task.time_remaining is not None:
        told += f", about {_clock(task.time_remaining)} left"
    note = task.fields.get("note", "")
    return f"{told}; {note}" if note else told


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def busy(doing: str, seconds: float = LINE_S) -> Iterator[None]:
    """Say what takes time and has no count, such as loading a model: a spinner, or where the output is no terminal a
    line every `seconds`.
    """
    if console.is_terminal:
        with console.status(doing):
            yield
        return
    over, began = threading.Event(), time.monotonic()

    def speak() -> None:
        while not over.wait(seconds):
            say(f"{doing}: {_clock(time.monotonic() - began)} gone")

    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        threading.Thread(target=speak, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def progress_bar(lines: bool = True) -> Progress:
    """A bar with a count, the time gone, the time left and a free text field `note`; use as a context manager.

    Where the output is no terminal, lines say the same. Add tasks with `bar.add_task("title", total=n, note="")`.
    lines: False where the caller says lines of its own.
    """
    kind = Lines if lines and not console.is_terminal else Progress
    return kind(
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
        os.write(2, STOPPING)  # not by rich, which may be halfway through an import of its own


class Stopped(KeyboardInterrupt):
    """Something long was given up halfway, since the run was asked to stop."""


_interruptions: list[Interruption] = []
_thread = threading.local()


def check_stop() -> None:
    """For work that takes long, between its pieces. Raises: Stopped once an `interruptible` run was asked to stop, or
    the `readers` that this thread belongs to are left.
    """
    leaving: threading.Event | None = getattr(_thread, "leaving", None)
    if any(_interruptions) or (leaving is not None and leaving.is_set()):
        raise Stopped


@contextmanager
def readers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read files; whoever leaves the block, by an exception or not, waits for no more than a frame."""
    leaving = threading.Event()
    with ThreadPoolExecutor(count, "reader", lambda: setattr(_thread, "leaving", leaving)) as pool:
        try:
            yield pool
        finally:
            leaving.set()
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within the block SIGINT and SIGTERM set the yielded flag, so that a loop can save and leave."""
    interruption = Interruption()
    previous = {number: signal.signal(number, interruption._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    _interruptions.append(interruption)
    try:
        yield interruption
    finally:
        _interruptions.remove(interruption)
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


def die_with_parent(death: signal.Signals = signal.SIGTERM) -> None:
    """In a child: ask Linux for a signal when the parent dies, so that a killed parent leaves nobody behind."""
    if _LIBC is not None:
        _LIBC.prctl(1, death, 0, 0, 0)  # PR_SET_PDEATHSIG


def worker_processes(count: int) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to this one: a worker finishes what it was given, and then the run ends. They end
    with this one, however it ends.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_begin_worker)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def say(text: str, style: str = "") -> None:
    """A line for people, as it is. style: rich's, such as "yellow"."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

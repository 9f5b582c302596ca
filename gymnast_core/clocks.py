"""Ages of stamps that outlive a jump of the wall clock. Durations themselves are `time.monotonic`'s everywhere.

Stamps come from the wall clock of this machine, which NTP, chrony or a person may set while the arm moves. Compared
with the wall clock alone, a message that is 5 ms old is then suddenly hours old, or from the future.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

JUMP_S = 0.05
"""A change of the wall clock against the steady one that is no slewing: adjtime and chrony move it 0.1 s a second at
most, and it is looked at several times a second."""
READING_S = 0.005
"""Two clocks read further apart than this were read with a pause between them, and are read again."""
SLACK_S = 0.02
REMEMBERED = 8
"""Jumps whose stamps are still understood."""


def since_boot() -> float:
    """Seconds since the machine was started, those in which it slept included; `time.monotonic` leaves these out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class _Epoch:
    """A stretch of time in which the wall clock ran evenly.

    offset: wall clock minus steady clock, seconds. since, until: on the steady clock.
    """

    number: int
    offset: float
    since: float
    until: float = math.inf


class WallClock:
    """Follows the wall clock against the steady one, and places stamps in the stretch of time they were taken in.

    wall, steady: the two clocks, seconds. Safe from several threads. Two jumps between two looks are seen as one: a
    stamp taken between them is then as wrong as one of them.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._lock = threading.Lock()
        now, offset = self._read()
        self._seen = now
        self._epochs = [_Epoch(0, offset, -math.inf)]
        self._untold: list[float] = []

    def look(self) -> None:
        """Read both clocks, so that a jump is noticed when it happens: call this several times a second."""
        with self._lock:
            self._look()

    @property
    def jumps(self) -> int:
        """Jumps seen so far."""
        return self._epochs[-1].number

    def told(self) -> str:
        """Jumps that were not reported yet, as one line; empty when there are none. Looks at the clocks."""
        with self._lock:
            self._look()
            untold, self._untold = self._untold, []
        if not untold:
            return ""
        return (
            f"the wall clock was moved by {', '.join(f'{jump:+.1f} s' for jump in untold)} (set by hand or by a time "
            "service, or the machine slept); supervision and timeouts go on unchanged"
        )

    def age(self, stamp: float) -> float:
        """Seconds since `stamp` (wall clock, seconds) was taken, whatever happened to the wall clock since; negative
        for one ahead of now."""
        with self._lock:
            now = self._look()
            return now - self._place(stamp, now)[1]

    def place(self, stamp: float) -> tuple[int, float]:
        """What orders stamps also across jumps: the stretch of time, and the steady clock's seconds within it."""
        with self._lock:
            return self._place(stamp, self._look())

    def _place(self, stamp: float, now: float) -> tuple[int, float]:
        """The newest stretch that `stamp` lies in; a stamp that lies in none is the present one's."""
        for epoch in reversed(self._epochs):
            moment = stamp - epoch.offset
            if epoch.since - SLACK_S <= moment <= min(epoch.until, now) + SLACK_S:
                return epoch.number, moment
        present = self._epochs[-1]
        return present.number, stamp - present.offset

    def _look(self) -> float:
        """Read both clocks; returns the steady one's seconds."""
        now, offset = self._read()
        present = self._epochs[-1]
        if abs(offset - present.offset) > JUMP_S:
            present.until = now
            self._untold.append(offset - present.offset)
            self._epochs = [*self._epochs, _Epoch(present.number + 1, offset, self._seen)][-REMEMBERED - 1 :]
        else:
            present.offset = offset  # slewing
        self._seen = now
        return now

    def _read(self) -> tuple[float, float]:
        """(steady clock, wall clock minus steady clock), read as close together as the machine allows."""
        best, narrowest = (0.0, 0.0), math.inf
        for _ in range(5):
            before = self._steady()
            wall = self._wall()
            after = self._steady()
            if after - before < narrowest:
                best, narrowest = (after, wall - (before + after) / 2), after - before
            if narrowest < READING_S:
                break
        return best

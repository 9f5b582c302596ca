"""Messages of several topics, each at its own rate, as the steps of one episode. These are the rules:

- What is seen or measured at a time is the latest message at or before it, never a later one.
- It is at most a step and a half old. An older one is refused: the topic is slower than the steps, or has a gap.
- Actions of a topic are the steps. They come at the rate that is named, each half a step early or late at most.
- Differences of poses are taken at even times, from the first at which every topic has a message.
- The last frame shows what came of the last action: it was taken after it, within one step. Actions before the first
  picture or after the last one are left out, a second of them at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gymnast_core.errors import DataError

OLDEST = 1.5
"""Steps."""
EARLY, LATE = 0.5, 1.5
"""Between two actions, steps."""
EDGE_S = 1.0
"""Of actions that a recording may hold before its first picture, or after its last one; one action always may be."""
CLOCKS_APART_S = 1.0
"""Stamps and times of receipt differ by a transport's delay, which is less."""


@dataclass
class Stream:
    """The messages of one topic. received, stamped: nanoseconds; stamped is None where the type has no header.
    values: what each says."""

    topic: str
    received: list[int] = field(default_factory=list)
    stamped: list[int | None] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    @property
    def has_header(self) -> bool:
        return any(stamp is not None for stamp in self.stamped)

    def times(self, by_header: bool) -> np.ndarray:
        """(n,) int64, nanoseconds. Raises: DataError where a header has no stamp."""
        if not by_header or not self.has_header:
            return np.array(self.received, dtype=np.int64)
        for number, stamp in enumerate(self.stamped):
            if not stamp:
                raise DataError(
                    f"topic '{self.topic}': message {number} has no stamp in its header; `stamps: received` goes by "
                    "the times of receipt"
                )
        return np.array(self.stamped, dtype=np.int64)

    def in_order(self, by_header: bool) -> tuple[np.ndarray, list[int]]:
        """Times (n,) that never fall, and the numbers of the messages in that order."""
        times = self.times(by_header)
        order = np.argsort(times, kind="stable")
        return times[order], order.tolist()


def check_clocks(streams: Sequence[Stream]) -> None:
    """Where one topic goes by receipt and another by stamps, both must be one clock. Raises: DataError."""
    bare = next((stream for stream in streams if not stream.has_header), None)
    for stream in streams if bare is not None else ():
        if bare is None or not stream.has_header:
            continue
        late = (np.array(stream.received, dtype=np.int64) - stream.times(True)) / 1e9
        if abs(apart := float(np.median(late))) > CLOCKS_APART_S:
            raise DataError(
                f"topic '{stream.topic}': its stamps are {apart:.1f} s off the times of receipt, by which "
                f"'{bare.topic}' goes, which has no header; `stamps: received` takes those for both"
            )


def check_rate(times: np.ndarray, period: float, topic: str) -> None:
    """Actions at one rate. times: (n,) int64 nanoseconds in order. Raises: DataError naming topic and message."""
    between = np.diff(times) / 1e9
    middle = float(np.median(between)) if len(between) else period
    if not 0.8 * period <= middle <= 1.25 * period:
        found = f"{1 / middle:.3g} Hz" if middle > 0 else "several messages at one time"
        raise DataError(f"topic '{topic}': found {found}, needed {1 / period:.3g} Hz (rate_hz)")
    bad = np.flatnonzero((between < EARLY * period) | (between > LATE * period))
    if len(bad):
        number = int(bad[0]) + 1
        allowed = f"{EARLY * period:.3g} to {LATE * period:.3g} s at {1 / period:.3g} Hz"
        raise DataError(
            f"topic '{topic}': message {number} came {between[number - 1]:.3g} s after the one before, allowed are "
            f"{allowed}"
        )


def latest(times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(k,) the number of the latest of `times` at or before each of `at`; -1 where there is none."""
    return np.searchsorted(times, at, side="right") - 1


def seen_at(times: np.ndarray, at: np.ndarray, period: float, topic: str) -> np.ndarray:
    """(k,) what `latest` finds. Raises: DataError where that is missing or too old."""
    found = latest(times, at)
    age = np.where(found >= 0, (at - times[found]) / 1e9, np.inf)
    old = np.flatnonzero(age > OLDEST * period)
    if len(old):
        step, told = int(old[0]), "there is none" if np.isinf(age[old[0]]) else f"the latest is {age[old[0]]:.3g} s old"
        raise DataError(
            f"topic '{topic}': found no message within {OLDEST * period:.3g} s before step {step} ({told}); it is "
            "slower than rate_hz, or has a gap"
        )
    return found


def steps_seen(times: np.ndarray, pictures: np.ndarray, period: float, topic: str) -> tuple[int, int]:
    """The first action with a picture at or before it, and the number of the one behind the last that has a picture
    after it, at most a step later. times, pictures: nanoseconds in order.

    Raises: DataError where no action lies between, or more than a second of actions lies outside.
    """
    first = int(np.searchsorted(times, pictures[0], side="left"))
    behind = times[-1] + round(period * 1e9)
    newest = int(latest(pictures, np.array([behind]))[0])
    kept = int(np.searchsorted(times, pictures[newest], side="left")) if newest >= 0 else 0
    if kept <= first:
        raise DataError(f"topic '{topic}': found no action with a picture before and after it")
    for count, where in ((first, "before the first"), (len(times) - kept, "after the last")):
        if count > max(1, round(EDGE_S / period)):
            raise DataError(
                f"topic '{topic}': found {count} actions {where} picture; at most a second of them is left out"
            )
    return first, kept


def even_times(first: int, last: int, period: float) -> np.ndarray:
    """(k,) int64 nanoseconds from `first` to at most `last`, `period` seconds apart."""
    count = int((last - first) / 1e9 / period + 1e-9) + 1 if last >= first else 0
    return first + np.round(np.arange(count) * period * 1e9).astype(np.int64)

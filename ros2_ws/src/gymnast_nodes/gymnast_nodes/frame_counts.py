"""How late the frames of a camera come, and how many of them are missing."""

from __future__ import annotations

import collections
import statistics

from gymnast_nodes.frame_time import Moment

REMEMBERED = 100
"""Frames whose lateness and distance are remembered."""
FEWEST = 10
"""Distances from which a period is known."""


class FrameCounts:
    """Counts by the frames' stamps: a gap of two periods is one missing frame, whoever lost it."""

    def __init__(self) -> None:
        self._late: collections.deque[float] = collections.deque(maxlen=REMEMBERED)
        self._distances: collections.deque[float] = collections.deque(maxlen=REMEMBERED)
        self._last: float | None = None
        self.frames = 0
        self.missing = 0

    def take(self, moment: Moment) -> None:
        """A frame came. Without a believed stamp it counts, and says nothing of lateness or gaps."""
        self.frames += 1
        if not moment.believed or not moment.in_order:
            return
        self._late.append(max(0.0, moment.late))
        if self._last is not None and moment.taken > self._last:
            distance = moment.taken - self._last
            if len(self._distances) >= FEWEST:
                self.missing += max(0, round(distance / statistics.median(self._distances)) - 1)
            self._distances.append(distance)
        self._last = moment.taken

    def pause(self) -> None:
        """Nobody listens for a while: the gap that follows is no loss."""
        self._last = None

    @property
    def values(self) -> dict[str, float | int]:
        """For /diagnostics: seconds between capture and arrival, median and largest of the last frames."""
        known = list(self._late) or [float("nan")]
        return {
            "frames": self.frames,
            "missing": self.missing,
            "latency_s": float(statistics.median(known)),
            "latency_max_s": float(max(known)),
        }

"""Checks of an episode's frames: they can be read, are of one size, not black, and change while the arm moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gymnast_core.data.episode import Episode
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import DataError
from gymnast_core.evaluation.check_files import told
from gymnast_core.evaluation.findings import (
    DARK,
    FILM_SAME,
    FROZEN_COMMAND_M,
    FROZEN_STATE_M,
    FROZEN_STEPS,
    PLAIN,
    Problem,
    spans,
)
from gymnast_core.progress import check_stop

LOOKED_AT = 64
"""Pixels a side at which brightness is measured."""


@dataclass
class SeenFrames:
    """What one pass over the frames leaves: a few numbers for each; no more than two frames are held.

    bright, spread: mean and standard deviation, of 255; NaN where a frame cannot be read. same: whether frame k + 1 is
    frame k again. unreadable: number and reason. sizes: (height, width) of each.
    """

    bright: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    _first: np.ndarray | None = None
    """Of the frames that are the same so far."""

    def take(self, frame: np.ndarray | None, lossy: bool) -> None:
        """The next frame (H, W, 3) uint8; None where it cannot be read. lossy: equal pictures may differ a little."""
        small = None if frame is None else resize_frame(frame, LOOKED_AT).astype(np.float32)
        shown = small if lossy else frame
        if self.sizes:
            self.same.append(_same(self._first, shown, FILM_SAME if lossy else 0.0))
        if not (self.same and self.same[-1]):
            self._first = shown
        self.bright.append(float("nan") if small is None else float(small.mean()))
        self.spread.append(float("nan") if small is None else float(small.std()))
        self.sizes.append(None if frame is None else (frame.shape[0], frame.shape[1]))


def _same(first: np.ndarray | None, shown: np.ndarray | None, tolerance: float) -> bool:
    if first is None or shown is None or first.shape != shown.shape:
        return False
    return bool(np.abs(first - shown).max() <= tolerance) if tolerance else np.array_equal(first, shown)


def look_at_frames(source: StoredEpisode) -> SeenFrames:
    """Read every frame once. Raises: Stopped."""
    seen = SeenFrames()
    if source.decoded_together:
        try:
            for frame in source.frames():
                seen.take(frame, lossy=True)
        except DataError as error:
            seen.unreadable.append((len(seen.sizes), told(error, source.path)))
        return seen
    try:
        count = source.count()
    except DataError as error:
        seen.unreadable.append((0, told(error, source.path)))
        return seen
    for number in range(count):
        check_stop()
        try:
            seen.take(source.frame(number), lossy=False)
        except DataError as error:
            seen.take(None, lossy=False)
            seen.unreadable.append((number, told(error, source.path)))
    return seen


def check_frames(seen: SeenFrames, episode: Episode | None) -> Iterator[Problem]:
    """episode: its steps, where they can be read: frames may be equal where the arm stands still."""
    for number, why in seen.unreadable:
        yield Problem("frame_unreadable", why, number)
    known = [size for size in seen.sizes if size is not None]
    other = np.array([size is not None and size != known[0] for size in seen.sizes], dtype=bool)
    for first, last in spans(other):
        height, width = seen.sizes[first] or (0, 0)
        yield Problem("frame_size", f"{width}x{height} pixels after {known[0][1]}x{known[0][0]}", first, last)
    bright, spread = np.array(seen.bright), np.array(seen.spread)
    for first, last in spans((bright < DARK) | (spread < PLAIN)):
        found = f"mean {bright[first]:.0f} and spread {spread[first]:.1f}"
        yield Problem("frames_black", found, first, last)
    if episode is not None:
        yield from _check_frozen(np.array(seen.same, dtype=bool), episode)


def _check_frozen(same: np.ndarray, episode: Episode) -> Iterator[Problem]:
    for first, last in spans(same[: episode.length]):
        if last - first + 1 < FROZEN_STEPS:
            continue
        places, sent = episode.states[first : last + 2, :3], episode.executed[first : last + 1, :3]
        if np.isfinite(places).all():
            moved, limit = float(np.linalg.norm(places[-1] - places[0])), FROZEN_STATE_M
            words = "the arm moved by"
        else:
            moved, limit = float(np.linalg.norm(np.nan_to_num(sent), axis=1).sum()), FROZEN_COMMAND_M
            words = "the arm was sent"
        if moved >= limit:
            found = f"{last - first + 2} equal frames while {words} {moved:.3f} m"
            yield Problem("frames_frozen", found, first, last)

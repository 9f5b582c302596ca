"""Whether a camera still sees what it saw: how far a second picture is shifted, and how much it differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.data.episode import FRAMES_FOLDER
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import DataError

MOST_PICTURES = 16
PARTS = 3
"""A picture has this many parts in a row, and in a column."""
TEXTURE = 5.0
"""Standard deviation of grey levels from which a part shows something to go by."""
RECOGNISED = 0.3
"""Height of the correlation's peak, 0 to 1, from which a part is recognised in the other picture."""
SAME_SHIFT, SAME_DIFFERENCE = 0.01, 10.0
"""Up to this share of the picture's width, and this many grey levels of 255, a view counts as the same."""


@dataclass(frozen=True)
class ViewChange:
    """How a second picture differs from a first one. shift: share of its width by which it is displaced. difference:
    mean difference of grey levels, 0 to 255, before any shift is undone. brightness: mean grey level of the second less
    that of the first. across, down: the shift to the right and downwards, pixels of the first.

    parts: the same as shift for nine parts of the picture by themselves, the median of those that are recognised. A
    camera that was turned, tilted or brought nearer displaces the parts, each its own way, and hardly the whole.
    recognised: how many parts are. textured: how many show something to go by."""

    shift: float
    difference: float
    brightness: float = 0.0
    across: float = 0.0
    down: float = 0.0
    parts: float = 0.0
    recognised: int = 0
    textured: int = 0

    @property
    def displaced(self) -> float:
        """The larger one of shift and parts."""
        return max(self.shift, self.parts)

    @property
    def known(self) -> bool:
        """Whether a third of what there is to go by is recognised: things that moved leave the rest of the room."""
        return 3 * self.recognised >= self.textured

    @property
    def same(self) -> bool:
        """Whether a camera that was left alone could have made both."""
        return self.known and self.displaced <= SAME_SHIFT and self.difference <= SAME_DIFFERENCE

    def problems(self, max_shift: float, max_brightness: float) -> tuple[str, ...]:
        """What is beyond a limit, in words; empty where nothing is. Things that moved in the scene are allowed.

        max_shift: share of the width. max_brightness: grey levels of 255.
        """
        found = []
        if not self.known:
            found.append(f"only {self.recognised} of {self.textured} parts of the picture are recognised")
        elif self.displaced > max_shift:
            how = "shifted" if self.shift > max_shift else "turned, tilted or brought nearer, its parts shifted"
            found.append(f"{how} by {self.displaced:.1%} of its width, allowed is {max_shift:.1%}")
        if abs(self.brightness) > max_brightness:
            how = "brighter" if self.brightness > 0 else "darker"
            found.append(f"{how} by {abs(self.brightness):.0f} of 255 grey levels, allowed are {max_brightness:g}")
        return tuple(found)

    def __str__(self) -> str:
        return f"shifted by {self.displaced:.1%} of its width, {self.difference:.1f} of 255 grey levels different"


def compare_views(first: np.ndarray, second: np.ndarray) -> ViewChange:
    """Of two pictures (H, W, 3), 0 to 255; the second is brought to the size of the first.

    The shift is found by phase correlation (Kuglin and Hines, 1975), which lighting hardly changes.
    """
    height, width = first.shape[:2]
    one, other = (_grey(cv2.resize(picture, (width, height))) for picture in (first, second))
    difference = float(np.abs(one - other).mean())
    (across, down), _ = _moved(one, other)
    brightness = float(other.mean() - one.mean())
    parts, recognised, textured = _moved_parts(one, other)
    return ViewChange(
        math.hypot(across, down) / width, difference, brightness, across, down, parts / width, recognised, textured
    )


def first_view(episodes: Sequence[str]) -> np.ndarray | None:
    """The mean (H, W, 3) float32 of the first frames of at most `MOST_PICTURES` episode folders; None where none of
    them can be read: what moves from reset to reset fades, and the room stays."""
    frames: list[np.ndarray] = []
    for folder in episodes:
        path = Path(folder) / FRAMES_FOLDER / f"{0:06d}.png"
        try:
            frame = read_image(path) if folder and path.exists() else None
        except DataError:
            continue
        if frame is not None and (not frames or frame.shape == frames[0].shape):
            frames.append(frame)
        if len(frames) == MOST_PICTURES:
            break
    return np.stack(frames).mean(axis=0, dtype=np.float32) if frames else None


def _moved(one: np.ndarray, other: np.ndarray) -> tuple[tuple[float, float], float]:
    """Pixels to the right and downwards between two grey pictures (H, W) float32, and the height of the peak."""
    height, width = one.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    # With their means, both would share the window's own shape, which has not moved.
    (across, down), peak = cv2.phaseCorrelate(one - one.mean(), other - other.mean(), window)
    return (float(across), float(down)), float(peak)


def _moved_parts(one: np.ndarray, other: np.ndarray) -> tuple[float, int, int]:
    """Median displacement of the parts that are recognised, pixels; how many those are; how many show something."""
    height, width = one.shape
    found, textured = [], 0
    for row in range(PARTS):
        for column in range(PARTS):
            part = (
                slice(row * height // PARTS, (row + 1) * height // PARTS),
                slice(column * width // PARTS, (column + 1) * width // PARTS),
            )
            if one[part].std() < TEXTURE:
                continue
            textured += 1
            moved, peak = _moved(one[part], other[part])
            if peak >= RECOGNISED:
                found.append(math.hypot(*moved))
    return (float(np.median(found)) if found else 0.0), len(found), textured


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.asarray(picture, dtype=np.float32), cv2.COLOR_RGB2GRAY)

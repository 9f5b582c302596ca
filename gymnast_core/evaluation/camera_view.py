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
SAME_SHIFT, SAME_DIFFERENCE = 0.01, 10.0
"""Up to this share of the picture's width, and this many grey levels of 255, a view counts as the same."""


@dataclass(frozen=True)
class ViewChange:
    """How a second picture differs from a first one. shift: share of its width by which it is displaced. difference:
    mean difference of grey levels, 0 to 255, before any shift is undone."""

    shift: float
    difference: float

    @property
    def same(self) -> bool:
        """Whether a camera that was left alone could have made both."""
        return self.shift <= SAME_SHIFT and self.difference <= SAME_DIFFERENCE

    @property
    def same_place(self) -> bool:
        """The same for a scene in which things have moved, and under other light."""
        return self.shift <= SAME_SHIFT

    def __str__(self) -> str:
        return f"shifted by {self.shift:.1%} of its width, {self.difference:.1f} of 255 grey levels different"


def compare_views(first: np.ndarray, second: np.ndarray) -> ViewChange:
    """Of two pictures (H, W, 3), 0 to 255; the second is brought to the size of the first.

    The shift is found by phase correlation (Kuglin and Hines, 1975), which lighting hardly changes.
    """
    height, width = first.shape[:2]
    one, other = (_grey(cv2.resize(picture, (width, height))) for picture in (first, second))
    difference = float(np.abs(one - other).mean())
    (across, down), _ = cv2.phaseCorrelate(one, other, cv2.createHanningWindow((width, height), cv2.CV_32F))
    return ViewChange(math.hypot(across, down) / width, difference)


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


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.asarray(picture, dtype=np.float32), cv2.COLOR_RGB2GRAY)

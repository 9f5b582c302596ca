"""Which pixels of a frame stay as they are: masks from motion, grown masks, and originals put back into an edit.

A mask is (H, W) bool. A protected pixel is one that shows the arm or an object of the task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from gymnast_core.errors import DataError

MOVED = 24
"""A pixel has moved where a channel differs from the first frame by more than this, of 255: twice a camera's noise."""
TOLERANCE = 24
"""A channel that differs by at most this, of 255, is unchanged: what scaling and JPEG do to edges."""


def check_mask(mask: np.ndarray, frame: np.ndarray, name: str) -> np.ndarray:
    """The mask of a frame (H, W, 3). Raises: DataError where it has another size, or hides the whole frame."""
    if mask.shape != frame.shape[:2]:
        found, needed = (f"{shape[1]}x{shape[0]}" for shape in (mask.shape, frame.shape))
        raise DataError(f"{name}: found a mask of {found} pixels, needed {needed}, the frame's size")
    if mask.all():
        raise DataError(f"{name}: found a mask that is white everywhere; needed one that leaves something free")
    return mask


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask with every pixel that lies within `pixels` of it, by a round brush."""
    if pixels < 1:
        return mask.copy()
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), brush).astype(bool)


def shrink_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask squashed to (height, width), true wherever a part of a pixel was."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return share > 1e-6


def motion_mask(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Where a fixed camera saw something move: the arm, and what it moved. What never moves is not found.

    frames: of one episode, (H, W, 3) uint8 each. Raises: DataError where there is only one frame, or nothing moves.
    """
    first: np.ndarray | None = None
    moved = np.zeros((0, 0), dtype=bool)
    count = 0
    for count, frame in enumerate(frames, start=1):
        soft = cv2.GaussianBlur(frame, (3, 3), 0).astype(np.int16)
        if first is None:
            first, moved = soft, np.zeros(frame.shape[:2], dtype=bool)
        elif soft.shape != first.shape:
            raise DataError(f"frame {count - 1}: found shape {frame.shape}, needed one size for all frames")
        else:
            moved |= np.abs(soft - first).max(axis=2) > MOVED
    if count < 2 or not moved.any():
        raise DataError(f"found {count} frame(s) in which nothing moves, so nothing tells the robot from the rest")
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    solid = cv2.morphologyEx(moved.astype(np.uint8), cv2.MORPH_CLOSE, brush, iterations=2)
    return cv2.morphologyEx(solid, cv2.MORPH_OPEN, brush).astype(bool) | moved


@dataclass(frozen=True)
class Restored:
    """An edited frame (H, W, 3) uint8 whose pixels outside the free ones are the original's, bit for bit.

    changed_outside: share of the pixels outside that the edit had changed by more than `TOLERANCE`. changed_inside: the
    same of the free pixels.
    """

    frame: np.ndarray
    changed_outside: float
    changed_inside: float


def restore(original: np.ndarray, edited: np.ndarray, free: np.ndarray) -> Restored:
    """Put the original's pixels back wherever an edit was not free to change them.

    original, edited: (H, W, 3) uint8. free: (H, W) bool.
    """
    differs = np.abs(original.astype(np.int16) - edited.astype(np.int16)).max(axis=2) > TOLERANCE
    outside = float(differs[~free].mean()) if (~free).any() else 0.0
    inside = float(differs[free].mean()) if free.any() else 0.0
    return Restored(np.where(free[..., None], edited, original), outside, inside)

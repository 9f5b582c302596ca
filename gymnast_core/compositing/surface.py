"""Where the bare table is in a frame, guessed from its colour."""

from __future__ import annotations

import cv2
import numpy as np

NEAR = 22.0
"""Distance in colour (CIE Lab of 8 bits, lightness at half its weight) up to which a pixel is table."""
TOP = 0.25
"""Share of a frame, from its top, that is taken for background."""
DARK = 48
"""Lightness, of 255, below which a pixel tells nothing about the table's colour: arms are black."""


def bare_table(frame: np.ndarray, protected: np.ndarray, swept: bool = False) -> np.ndarray:
    """The largest region of the commonest colour in the lower part of a frame, (H, W) bool.

    frame: (H, W, 3) uint8. protected: (H, W) bool, not to be called bare. swept: protected is wherever an arm
    moves, which is over the table for the most part, so the colours there tell the table's. All false where
    nothing is free.
    """
    lab = cv2.cvtColor(cv2.GaussianBlur(frame, (5, 5), 0), cv2.COLOR_RGB2LAB).astype(np.float32)
    free = ~protected
    telling = np.ones_like(free) if swept else free.copy()
    telling[: int(TOP * len(frame))] = free[: int(TOP * len(frame))] = False
    telling &= lab[..., 0] >= DARK
    if not telling.any():
        return np.zeros_like(protected)
    bins = (lab // np.array([32, 12, 12], dtype=np.float32)).astype(np.int64)
    codes = bins[..., 0] * 1024 + bins[..., 1] * 32 + bins[..., 2]
    values, counts = np.unique(codes[telling], return_counts=True)
    colour = np.median(lab[telling & (codes == values[np.argmax(counts)])], axis=0)
    weights = np.array([0.5, 1.0, 1.0], dtype=np.float32)
    near = free & (np.linalg.norm((lab - colour) * weights, axis=2) < NEAR)
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    solid = cv2.morphologyEx(near.astype(np.uint8), cv2.MORPH_CLOSE, brush)
    solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, brush)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    if count < 2:
        return np.zeros_like(protected)
    return (labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))) & free

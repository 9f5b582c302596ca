"""Pictures of runs: film strips (PNG), videos (MP4) and sheets of strips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.data.film_writer import write_film
from gymnast_core.data.frames import encode_image, resize_frame
from gymnast_core.errors import DataError
from gymnast_core.files import write_bytes

GAP = 3
BACKGROUND = 255
BAR = 5
GREEN, RED, GREY = (46, 160, 67), (207, 72, 62), (140, 149, 159)


def film_strip(frames: np.ndarray, count: int = 8, side: int = 128, outcome: float | None = None) -> np.ndarray:
    """`count` frames of a video (T, H, W, 3), evenly spaced with the first and the last, side by side.

    outcome: colours the bar below: green 1, red 0, grey None or NaN (not judged). Returns (side + 5, width, 3) uint8.
    """
    if frames.ndim != 4 or not len(frames):
        raise DataError(f"film strip: found frames {frames.shape}, needed (T, height, width, 3) with T at least 1")
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    width = len(chosen) * side + (len(chosen) - 1) * GAP
    strip = np.full((side + BAR, width, 3), BACKGROUND, dtype=np.uint8)
    for place, index in enumerate(chosen):
        left = place * (side + GAP)
        strip[:side, left : left + side] = resize_frame(frames[index], side)
    known = outcome is not None and np.isfinite(outcome)
    strip[side + 1 :] = (GREEN if outcome is not None and outcome >= 0.5 else RED) if known else GREY
    return strip


def sheet(rows: Sequence[tuple[str, np.ndarray]], gap: int = 8) -> np.ndarray:
    """Pictures (h, w, 3) one below the other, each under its title; (H, W, 3) uint8."""
    if not rows:
        raise DataError("sheet: found no picture to put on it")
    title = 22
    width = max(max(picture.shape[1] for _, picture in rows), 12 + 8 * max(len(name) for name, _ in rows))
    height = sum(picture.shape[0] + title + gap for _, picture in rows)
    page = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    top = 0
    for name, picture in rows:
        text = name.encode("ascii", "replace").decode()
        cv2.putText(page, text, (2, top + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
        page[top + title : top + title + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + title + gap
    return page


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> Path:
    """Write an RGB picture as PNG or JPEG by suffix, whole or not at all."""
    path = Path(path)
    write_bytes(path, encode_image(picture, path.suffix))
    return path


def write_video(path: str | os.PathLike[str], frames: np.ndarray, fps: float = 5.0) -> Path:
    """Write frames (T, H, W, 3) uint8 as H.264, whole or not at all; odd sides lose one pixel. fps: frames per second.

    Raises: DataError when the file cannot be written, or its suffix names no video format.
    """
    path = Path(path)
    height, width = (frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2)
    write_film(path, (frame[:height, :width] for frame in frames), fps)
    return path

"""Camera frames and image files: read, check, resize, encode. Frames are uint8 RGB (H, W, 3) everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.data.pictures import MAX_SIDE as MAX_SIDE
from gymnast_core.data.pictures import MIN_SIDE as MIN_SIDE
from gymnast_core.data.pictures import check_sides
from gymnast_core.data.pictures import read_image as read_image
from gymnast_core.errors import DataError
from gymnast_core.files import write_bytes


def check_frame(frame: np.ndarray, name: str = "frame") -> np.ndarray:
    """Return `frame` if it is uint8 RGB (H, W, 3) with sides 16 to 8192 pixels.

    Raises: DataError naming what was found.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = getattr(frame, "dtype", type(frame).__name__)
        raise DataError(f"{name}: found {found}, needed a uint8 RGB image")
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise DataError(f"{name}: found shape {frame.shape}, needed (height, width, 3) RGB")
    check_sides(frame.shape[1], frame.shape[0], name)
    return frame


def write_image(path: str | os.PathLike[str], frame: np.ndarray) -> None:
    """Write an RGB frame as PNG or JPEG (by suffix), atomically.

    Raises: DataError when the file cannot be written (for example a full disk).
    """
    path = Path(path)
    write_bytes(path, encode_image(frame, path.suffix or ".png"))


def encode_image(frame: np.ndarray, suffix: str = ".png") -> bytes:
    """Encode an RGB frame (H, W, 3) uint8 as ".png" (lossless) or ".jpg"."""
    ok, encoded = cv2.imencode(suffix, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DataError(f"cannot encode a {frame.shape} image as {suffix}")
    return encoded.tobytes()


def resize_frame(frame: np.ndarray, size: int) -> np.ndarray:
    """Squash a frame to (size, size, 3) without cropping, as AutoEval's stations do; area average when shrinking."""
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    shrinking = height >= size and width >= size
    return cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)


def shrink_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """Squash a frame that is larger than `side` either way to (side, side, 3); others stay as they are."""
    return resize_frame(frame, side) if max(frame.shape[:2]) > side else frame

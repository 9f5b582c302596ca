"""Camera frames and image files: read, check, resize, encode. Frames are uint8 RGB (H, W, 3) everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.errors import DataError

MIN_SIDE = 16
MAX_SIDE = 8192


def check_frame(frame: np.ndarray, name: str = "frame") -> np.ndarray:
    """Return `frame` if it is uint8 RGB (H, W, 3) with sides 16 to 8192 pixels.

    Raises: DataError naming what was found.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = getattr(frame, "dtype", type(frame).__name__)
        raise DataError(f"{name}: found {found}, needed a uint8 RGB image")
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise DataError(f"{name}: found shape {frame.shape}, needed (height, width, 3) RGB")
    height, width = frame.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise DataError(f"{name}: found {width}x{height} pixels, allowed are sides of {MIN_SIDE} to {MAX_SIDE} pixels")
    return frame


def files_below(root: str | os.PathLike[str], suffix: str) -> list[Path]:
    """Files below `root` whose names end so, sorted by path; links to folders are followed, each folder once."""
    found: list[Path] = []
    seen = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = {name: os.path.realpath(Path(folder) / name) for name in sorted(subfolders)}
        new = {path: name for name, path in real.items() if path not in seen}
        seen |= new.keys()
        subfolders[:] = new.values()
        found += [Path(folder) / name for name in names if name.endswith(suffix)]
    return sorted(found)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3).

    Raises: DataError when the file is missing, not an image, not 8-bit with three colour channels, or of a side
        outside 16 to 8192 pixels. Grey and four-channel images are refused: silently dropping or inventing a
        channel would change what the policy sees.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such image file")
    try:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # its header claims more pixels than OpenCV decodes
        image = None
    if image is None:
        raise DataError(f"{path}: not a readable image (PNG or JPEG expected)")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels != 3:
        raise DataError(f"{path}: found {channels} channel(s), needed 3 (RGB); convert the image first")
    if image.dtype != np.uint8:
        raise DataError(f"{path}: found {image.dtype} pixels, needed 8 bits a channel")
    return check_frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), str(path))


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


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, then a rename.

    Raises: DataError naming the path when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise DataError(f"{path}: cannot write: {reason}; free disk space or choose another folder") from error


def resize_frame(frame: np.ndarray, size: int) -> np.ndarray:
    """Squash a frame to (size, size, 3) without cropping, as AutoEval's stations do; area average when shrinking."""
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    shrinking = height >= size and width >= size
    return cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)

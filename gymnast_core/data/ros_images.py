"""Pixels of a sensor_msgs/Image, live or from a bag; no ROS is imported for it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gymnast_core.errors import DataError

ENCODINGS = ("rgb8", "bgr8")


class RosImage(Protocol):
    """The fields of sensor_msgs/Image that are needed, of any ROS library."""

    encoding: str
    height: int
    width: int
    step: int
    data: Any


def image_to_frame(message: RosImage, name: str = "image") -> np.ndarray:
    """A sensor_msgs/Image (rgb8 or bgr8) as uint8 RGB (H, W, 3); rows may be padded.

    Raises: DataError naming the encoding or size found and what is allowed.
    """
    if message.encoding not in ENCODINGS:
        raise DataError(f"{name}: encoding '{message.encoding}', allowed are {' and '.join(ENCODINGS)}")
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0 or step < 3 * width or len(message.data) != height * step:
        raise DataError(f"{name}: {width}x{height} with step {step} and {len(message.data)} bytes do not fit together")
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)
    frame = rows[:, : 3 * width].reshape(height, width, 3)
    if message.encoding == "bgr8":
        frame = frame[:, :, ::-1]
    return np.ascontiguousarray(frame)

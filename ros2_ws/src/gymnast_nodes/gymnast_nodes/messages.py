"""ROS messages as the core's types, and back."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from sensor_msgs.msg import Image

from gymnast_core.config import CameraConfig
from gymnast_core.errors import DataError

ENCODINGS = ("rgb8", "bgr8")


def to_seconds(stamp: TimeMessage) -> float:
    """Seconds of a ROS stamp as a float (microsecond accuracy at today's epoch)."""
    return stamp.sec + stamp.nanosec * 1e-9


def image_to_frame(message: Image, name: str = "image") -> np.ndarray:
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


def frame_to_image(frame: np.ndarray, stamp: TimeMessage, frame_id: str) -> Image:
    """A uint8 RGB frame (H, W, 3) as sensor_msgs/Image rgb8."""
    message = Image(height=frame.shape[0], width=frame.shape[1], encoding="rgb8", step=3 * frame.shape[1])
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.data = array.array("B", np.ascontiguousarray(frame).tobytes())  # a list or bytes is checked per element
    return message


def frame_problem(message: Image, camera: CameraConfig) -> str:
    """What is wrong with a frame's encoding or size, empty when nothing is; the pixels are not looked at."""
    if message.encoding not in ENCODINGS:
        return f"{camera.topic} has encoding '{message.encoding}', allowed are {' and '.join(ENCODINGS)}"
    if (message.width, message.height) != (camera.width, camera.height):
        return (
            f"{camera.topic} has {message.width}x{message.height} pixels, "
            f"the station file says {camera.width}x{camera.height} (camera.width, camera.height)"
        )
    return ""

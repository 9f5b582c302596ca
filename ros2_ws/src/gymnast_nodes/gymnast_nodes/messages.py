"""ROS messages as the core's types, and back."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from sensor_msgs.msg import Image

from gymnast_core.config import CameraConfig
from gymnast_core.data.ros_images import ENCODINGS
from gymnast_core.data.ros_images import image_to_frame as image_to_frame


def to_seconds(stamp: TimeMessage) -> float:
    """Seconds of a ROS stamp as a float (microsecond accuracy at today's epoch)."""
    return stamp.sec + stamp.nanosec * 1e-9


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

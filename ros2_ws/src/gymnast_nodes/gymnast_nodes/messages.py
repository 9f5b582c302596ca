"""ROS messages as the core's types, and back."""

from __future__ import annotations

import array
from typing import TypeAlias

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from sensor_msgs.msg import CompressedImage, Image

from gymnast_core.config import CameraConfig
from gymnast_core.data.frames import encode_image
from gymnast_core.data.ros_images import encoding_problem, message_size
from gymnast_core.data.ros_images import image_to_frame as image_to_frame
from gymnast_core.errors import DataError

Picture: TypeAlias = Image | CompressedImage
"""What a camera's topic holds."""
PICTURE_TYPES: dict[str, type[Picture]] = {"Image": Image, "CompressedImage": CompressedImage}
"""By `camera.message` of the station file."""


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


def picture_type(camera: CameraConfig) -> type[Picture]:
    """The type of the messages on the camera's topic."""
    return PICTURE_TYPES[camera.message]


def frame_to_compressed(frame: np.ndarray, stamp: TimeMessage, frame_id: str) -> CompressedImage:
    """A uint8 RGB frame (H, W, 3) as sensor_msgs/CompressedImage, PNG: nothing of it is lost."""
    message = CompressedImage(format="rgb8; png compressed bgr8")
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.data = array.array("B", encode_image(frame))
    return message


def frame_problem(message: Picture, camera: CameraConfig) -> str:
    """What is wrong with a frame's encoding or size, empty when nothing is; the pixels are not looked at."""
    if isinstance(message, Image) and (problem := encoding_problem(message.encoding)):
        return f"{camera.topic} has {problem}"
    try:
        width, height = message_size(message, camera.topic)
    except DataError as error:
        return str(error)
    if (width, height) != (camera.width, camera.height):
        return (
            f"{camera.topic} has {width}x{height} pixels, "
            f"the station file says {camera.width}x{camera.height} (camera.width, camera.height)"
        )
    return ""

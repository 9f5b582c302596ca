"""Pixels of a camera's ROS message, raw or compressed, live or from a bag; no ROS is imported for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from gymnast_core.data.pictures import decode_image, picture_size
from gymnast_core.errors import DataError


@dataclass(frozen=True)
class Layout:
    """How an encoding lays out a row. channels: numbers for each pixel. code: OpenCV's conversion of them to RGB, None
    where they are RGB already. bits: of each number. paired: two pixels share their colour, so widths are even."""

    channels: int
    code: int | None = None
    bits: int = 8
    paired: bool = False


_COLOURS = {
    "rgb": Layout(3),
    "bgr": Layout(3, cv2.COLOR_BGR2RGB),
    "rgba": Layout(4, cv2.COLOR_RGBA2RGB),
    "bgra": Layout(4, cv2.COLOR_BGRA2RGB),
    "mono": Layout(1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row, from the second pixel on; ROS by its first two rows.
    "bayer_rggb": Layout(1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr": Layout(1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg": Layout(1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg": Layout(1, cv2.COLOR_BayerGB2RGB),
}
_UYVY, _YUYV = Layout(2, cv2.COLOR_YUV2RGB_UYVY, paired=True), Layout(2, cv2.COLOR_YUV2RGB_YUY2, paired=True)
LAYOUTS: dict[str, Layout] = {
    **{f"{name}8": layout for name, layout in _COLOURS.items()},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    **{f"{name}16": Layout(layout.channels, layout.code, 16) for name, layout in _COLOURS.items()},
}
"""The encodings of sensor_msgs/image_encodings.hpp that hold a picture, by their names there."""
ENCODINGS = tuple(LAYOUTS)


class RosImage(Protocol):
    """The fields of sensor_msgs/Image that are needed, of any ROS library."""

    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: Any
    data: Any


@runtime_checkable
class RosCompressedImage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are needed, of any ROS library."""

    format: str
    data: Any


def image_to_frame(message: RosImage | RosCompressedImage, name: str = "image") -> np.ndarray:
    """A camera's message as uint8 RGB (H, W, 3). name: of the picture, for errors.

    Rows may be padded and numbers of 16 bits have either byte order. Grey becomes equal red, green and blue; alpha is
    dropped; 16 bits are scaled to 8; YUV is BT.601 of limited range; Bayer patterns are interpolated linearly.

    Raises: DataError naming what was found and what is allowed: another encoding (depth is no picture), sizes that do
        not fit together, a compressed picture that is neither JPEG nor PNG, or damaged.
    """
    if isinstance(message, RosCompressedImage):
        _check_format(message, name)
        return decode_image(bytes(message.data), name, grey=True)
    if problem := encoding_problem(message.encoding):
        raise DataError(f"{name}: {problem}")
    layout = LAYOUTS[message.encoding]
    pixels = _numbers(message, layout, name)
    if layout.bits == 16:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    frame = pixels if layout.code is None else cv2.cvtColor(np.ascontiguousarray(pixels), layout.code)
    return np.ascontiguousarray(frame)


def encoding_problem(encoding: str) -> str:
    """What is wrong with the encoding of a sensor_msgs/Image; empty when nothing is."""
    if encoding in LAYOUTS:
        return ""
    depth = " (depth or bare numbers, no picture)" if encoding[:2] in ("8U", "8S", "16", "32", "64") else ""
    return f"encoding '{encoding}'{depth}, allowed are {', '.join(ENCODINGS)}"


def message_size(message: RosImage | RosCompressedImage, name: str = "image") -> tuple[int, int]:
    """(width, height) in pixels, without decoding any. Raises: DataError where a compressed picture is not readable."""
    if isinstance(message, RosCompressedImage):
        _check_format(message, name)
        return picture_size(bytes(message.data), name)
    return message.width, message.height


def _check_format(message: RosCompressedImage, name: str) -> None:
    """Raises: DataError for depth in a compressed message."""
    told = message.format.replace(" ", "")
    if "compresseddepth" in told.lower() or told.startswith(("16UC1", "32FC1")):
        raise DataError(f"{name}: format '{message.format}', allowed are JPEG and PNG pictures in colour or grey")


def _numbers(message: RosImage, layout: Layout, name: str) -> np.ndarray:
    """(H, W, channels), of one channel (H, W): uint8, or uint16 in this machine's byte order. Raises: DataError."""
    height, width, step = message.height, message.width, message.step
    used = width * layout.channels * layout.bits // 8
    if height == 0 or width == 0 or step < used or len(message.data) != height * step:
        raise DataError(f"{name}: {width}x{height} with step {step} and {len(message.data)} bytes do not fit together")
    if layout.paired and width % 2:
        raise DataError(f"{name}: encoding '{message.encoding}' with an odd width of {width}, needed an even one")
    if layout.code is not None and message.encoding.startswith("bayer") and min(height, width) < 2:
        raise DataError(f"{name}: {width}x{height} pixels hold no Bayer pattern, needed at least 2x2")
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)[:, :used]
    if layout.bits == 16:
        rows = np.ascontiguousarray(rows).view(">u2" if message.is_bigendian else "<u2")
    return rows.reshape(height, width, layout.channels) if layout.channels > 1 else rows

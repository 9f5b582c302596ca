"""A camera's message is decoded as its encoding, row padding and byte order say, held against readings by hand."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gymnast_core.data.ros_images import ENCODINGS, image_to_frame, message_size
from gymnast_core.errors import DataError

PATTERNS = {"rggb": ((0, 1), (1, 2)), "bggr": ((2, 1), (1, 0)), "gbrg": ((1, 2), (0, 1)), "grbg": ((1, 0), (2, 1))}
"""Which of red, green and blue each pixel of two rows and columns saw."""


@dataclass
class Raw:
    """sensor_msgs/Image, its rows padded."""

    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: int
    data: Any


@dataclass
class Packed:
    """sensor_msgs/CompressedImage."""

    format: str
    data: Any


def raw(encoding: str, numbers: np.ndarray, padding: int = 0, big: bool = False) -> Raw:
    """numbers: (H, W, channels) of uint8 or uint16."""
    height, width = numbers.shape[:2]
    kind = {1: "u1", 2: ">u2" if big else "<u2"}[numbers.dtype.itemsize]
    rows = np.frombuffer(numbers.astype(kind).tobytes(), np.uint8).reshape(height, -1)
    padded = np.full((height, rows.shape[1] + padding), 77, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return Raw(encoding, height, width, padded.shape[1], int(big), padded.tobytes())


def picture(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(0, 5), st.booleans())
def test_colours_alpha_grey_and_16_bits_are_where_their_encoding_says(seed: int, padding: int, big: bool) -> None:
    frame = picture(seed)
    alpha = np.full((6, 8, 1), 9, np.uint8)
    orders = {"rgb": frame, "bgr": frame[:, :, ::-1], "rgba": np.dstack((frame, alpha))}
    orders["bgra"] = np.dstack((frame[:, :, ::-1], alpha))
    for name, numbers in orders.items():
        np.testing.assert_array_equal(image_to_frame(raw(f"{name}8", numbers, padding, big)), frame)
        deep = numbers.astype(np.uint16) * 257
        np.testing.assert_array_equal(image_to_frame(raw(f"{name}16", deep, 2 * padding, big)), frame)
    grey = frame[:, :, :1]
    np.testing.assert_array_equal(image_to_frame(raw("mono8", grey, padding, big)), np.repeat(grey, 3, 2))
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(image_to_frame(raw("mono16", deep, padding, big)), np.repeat(grey, 3, 2))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(0, 5))
def test_yuv_is_bt601_of_limited_range_and_two_pixels_share_their_colour(seed: int, padding: int) -> None:
    generator = np.random.default_rng(seed)
    luma = generator.integers(16, 236, (4, 8))
    u, v = (generator.integers(16, 241, (4, 4)) for _ in range(2))
    y, cb, cr = 255 / 219 * (luma - 16.0), *(255 / 224 * (np.repeat(one, 2, 1) - 128.0) for one in (u, v))
    expected = np.stack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), axis=-1)
    uyvy, yuyv = np.zeros((4, 8, 2), np.uint8), np.zeros((4, 8, 2), np.uint8)
    uyvy[:, :, 1] = yuyv[:, :, 0] = luma
    uyvy[:, ::2, 0] = yuyv[:, ::2, 1] = u
    uyvy[:, 1::2, 0] = yuyv[:, 1::2, 1] = v
    for numbers, names in ((uyvy, ("yuv422", "uyvy")), (yuyv, ("yuv422_yuy2", "yuyv"))):
        for name in names:
            found = image_to_frame(raw(name, numbers, padding)).astype(float)
            np.testing.assert_allclose(found, expected.clip(0, 255), atol=1.5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_bayer_picture_keeps_what_each_pixel_saw_and_the_mean_of_its_neighbours(pattern: str, bits: int) -> None:
    colours = np.array([PATTERNS[pattern][row % 2][column % 2] for row in range(8) for column in range(10)])
    colours = colours.reshape(8, 10)
    seen = np.random.default_rng(4).integers(0, 256, (8, 10, 1), dtype=np.uint8)
    numbers = seen if bits == 8 else seen.astype(np.uint16) * 257
    frame = image_to_frame(raw(f"bayer_{pattern}{bits}", numbers, 6, big=True)).astype(float)
    for row in range(1, 7):  # at the border OpenCV repeats its neighbours
        for column in range(1, 9):
            near = (slice(row - 1, row + 2), slice(column - 1, column + 2))
            for colour in range(3):
                if colours[row, column] == colour:
                    expected = float(seen[row, column, 0])
                else:
                    expected = float(seen[near][..., 0][colours[near] == colour].mean())
                assert abs(frame[row, column, colour] - expected) <= 1.0, (row, column, colour)


def test_compressed_pictures_are_decoded_in_colour_or_grey_and_depth_is_refused() -> None:
    frame = np.kron(picture(5), np.ones((8, 8, 1), np.uint8))
    for image, expected in ((Image.fromarray(frame), frame), (Image.fromarray(frame[:, :, 0]), frame[:, :, :1])):
        for kind, off in (("PNG", 0), ("JPEG", 40)):
            stream = io.BytesIO()
            image.save(stream, kind, quality=95, **({"subsampling": 0} if kind == "JPEG" else {}))
            packed = Packed(f"rgb8; {kind.lower()} compressed bgr8", np.frombuffer(stream.getvalue(), np.uint8))
            found = image_to_frame(packed).astype(int)
            assert np.abs(found - expected).max() <= off and np.abs(found - expected).mean() < 5
            assert found.shape == (48, 64, 3) and message_size(packed) == (64, 48)
    packed.format = "16UC1; compressedDepth png"
    with pytest.raises(DataError, match="cam: format '16UC1; compressedDepth png', allowed are JPEG and PNG"):
        image_to_frame(packed, "cam")
    packed.format, packed.data = "jpeg", packed.data[: len(packed.data) // 2]
    with pytest.raises(DataError, match=r"cam: not a (whole|readable) image"):
        image_to_frame(packed, "cam")


def test_what_does_not_fit_together_is_refused_by_name() -> None:
    good = raw("rgb8", picture(1), 3)
    for change, told in (
        ({"encoding": "16UC1"}, r"encoding '16UC1' \(depth or bare numbers, no picture\), allowed are rgb8, bgr8, "),
        ({"encoding": "jpeg"}, "encoding 'jpeg', allowed are"),
        ({"step": 23}, "8x6 with step 23 and 162 bytes do not fit together"),
        ({"data": good.data[:-1]}, "and 161 bytes do not fit together"),
        ({"height": 0}, "8x0 with step"),
        ({"encoding": "yuv422", "width": 7}, "odd width of 7"),
        ({"encoding": "bayer_rggb8", "height": 1, "data": good.data[: good.step]}, "at least 2x2"),
        ({"encoding": "rgb16"}, "do not fit together"),
    ):
        with pytest.raises(DataError, match=f"cam: .*{told}"):
            image_to_frame(Raw(**{**good.__dict__, **change}), "cam")
    assert {"rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2", "bayer_grbg8"} <= set(ENCODINGS)

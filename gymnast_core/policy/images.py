"""From a camera frame to the model's pixels, without TensorFlow or torchvision.

Variants, one of which a checkpoint's config names (`image_variant`); acting, RL and evaluation all use that one:

resize            squash to the model's size with Pillow's antialiased bicubic filter; bit-equal to the reference
center_crop       cut the centre of 0.9 of the area and resize it bilinearly, as TensorFlow's crop_and_resize does (bit
                  by bit); what World-Gymnast uses at RL and evaluation time
jpeg_center_crop  as OpenVLA-OFT evaluates on a robot: through JPEG, Lanczos resize, then the centre crop; its JPEG and
                  Lanczos filter are Pillow's, which differ from TensorFlow's in the last bit

Training (`augment`) starts from the same variant: a random crop of as much as acting keeps takes the place of the
centre crop, then the colours are jittered.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from gymnast_core.data.frames import check_frame
from gymnast_core.errors import DataError
from gymnast_core.policy.config import CROP_AREA, ImageVariant
from gymnast_core.policy.prompt import normalise_instruction

SIDE_BY_SIDE = 1_000_000
"""Pixels of a batch from which threads are worth their while."""
# bfloat16-rounded, as OpenVLA's preprocessor files hold them and as its released models were used.
DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Augmentation:
    """Jitter of training images, with OpenVLA-OFT's operations in its order; what is zero (crop_area: 1) is left out.

    crop_area: share of the area that a square crop at a random place keeps. Acting keeps 0.9 with the cropping
        variants: crops keep from `crop_area` to that share, so that 0.9 is always 0.9, as OpenVLA-OFT trains; with
        "resize", which keeps everything, from `crop_area` to 1.
    brightness: added to all channels, up to this share of full scale either way.
    contrast: each channel's distance from its mean is scaled by 1 - contrast to 1 + contrast.
    saturation: the same range of factors for the saturation (of hue, saturation, value).
    hue: turned by up to this share of the colour circle either way.
    """

    crop_area: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


def check_batch(frames: np.ndarray, instructions: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """What a policy is asked about: frames (N, H, W, 3) uint8 RGB, N at least 1, and one instruction for each.

    Raises: DataError when frames are no NumPy array (or list of equal ones) of that shape and type, or instructions are
        not N texts.
    """
    rows = frames if isinstance(frames, (np.ndarray, list, tuple)) else None
    if rows is None or (not isinstance(frames, np.ndarray) and not all(isinstance(f, np.ndarray) for f in rows)):
        found = type(frames if rows is None else next(f for f in rows if not isinstance(f, np.ndarray)))
        name = f"{found.__module__}.{found.__qualname__}".removeprefix("builtins.")
        raise DataError(f"frames: found {name}, needed a NumPy array (N, height, width, 3) uint8")
    if isinstance(rows, np.ndarray) and rows.ndim != 4:
        raise DataError(f"frames: found shape {rows.shape}, needed (N, height, width, 3) RGB")
    if not len(rows):
        raise DataError("frames: found none, needed at least one")
    shapes = {check_frame(row, f"frames: row {number}").shape for number, row in enumerate(rows)}
    if len(shapes) > 1:
        raise DataError(f"frames: found shapes {' and '.join(map(str, sorted(shapes)))}, needed one shape")
    if isinstance(instructions, str) or not isinstance(instructions, (Sequence, np.ndarray)):
        name = type(instructions).__name__
        raise DataError(f"instructions: found {name}, needed a list of one text for each frame")
    if len(rows) != len(instructions):
        raise DataError(f"instructions: found {len(instructions)}, needed one for each of {len(rows)} frames")
    return np.asarray(rows), [normalise_instruction(instruction) for instruction in instructions]


def crop_resize(frame: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """Bilinear sample of a box (top, left, bottom, right, as shares of the sides) at (size, size, 3), uint8.

    The arithmetic is TensorFlow's crop_and_resize in float32: corners map to corners, no antialiasing; then scaled to
    8 bit by 255.5 and truncated.
    """
    image = frame.astype(np.float32) * np.float32(1.0 / 255.0)
    rows = _samples(box[0], box[2], frame.shape[0], size)
    columns = _samples(box[1], box[3], frame.shape[1], size)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    bottom, right = np.ceil(rows).astype(np.int64), np.ceil(columns).astype(np.int64)
    row_share = (rows - top.astype(np.float32))[:, None, None]
    column_share = (columns - left.astype(np.float32))[None, :, None]
    upper = image[top][:, left] + (image[top][:, right] - image[top][:, left]) * column_share
    lower = image[bottom][:, left] + (image[bottom][:, right] - image[bottom][:, left]) * column_share
    mixed = np.clip(upper + (lower - upper) * row_share, np.float32(0), np.float32(1))
    return (mixed * np.float32(255.5)).astype(np.uint8)


def _samples(start: float, stop: float, side: int, size: int) -> np.ndarray:
    begin, end, last = np.float32(start), np.float32(stop), np.float32(side - 1)
    step = (end - begin) * last / np.float32(size - 1)
    return np.clip(begin * last + np.arange(size, dtype=np.float32) * step, np.float32(0), last)


def center_box(area: float = CROP_AREA) -> tuple[float, float, float, float]:
    """The box of `crop_resize` that keeps the centre with this share of the area."""
    side = np.sqrt(np.float32(area))
    offset = (np.float32(1.0) - side) / np.float32(2.0)
    return float(offset), float(offset), float(offset + side), float(offset + side)


def resize(frame: np.ndarray, size: int, lanczos: bool = False) -> np.ndarray:
    """Squash to (size, size, 3) uint8 with Pillow's antialiased bicubic (or Lanczos) filter."""
    if frame.shape[:2] == (size, size):
        return frame
    kernel = Image.Resampling.LANCZOS if lanczos else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(frame).resize((size, size), kernel))


def jpeg_round_trip(frame: np.ndarray) -> np.ndarray:
    """Through JPEG at quality 95 with halved chroma, TensorFlow's defaults."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=95, subsampling="4:2:0")
    return np.asarray(Image.open(buffer).convert("RGB"))


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads for preparing frames; those of another process are not there after a fork."""
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1), "frames")


def prepare(frame: np.ndarray, variant: ImageVariant, size: int) -> np.ndarray:
    """One frame (H, W, 3) uint8 to the model's (size, size, 3) uint8, before normalisation."""
    if variant == "resize":
        return resize(frame, size)
    if variant == "jpeg_center_crop":
        frame = resize(jpeg_round_trip(frame), size, lanczos=True)
    return crop_resize(frame, center_box(), size)


def augment(
    frame: np.ndarray, variant: ImageVariant, size: int, settings: Augmentation, generator: np.random.Generator
) -> np.ndarray:
    """Like `prepare`, jittered: what the model sees in training, (size, size, 3) uint8."""
    if settings.crop_area < 1.0:
        if variant == "jpeg_center_crop":
            frame = resize(jpeg_round_trip(frame), size, lanczos=True)
        most = 1.0 if variant == "resize" else CROP_AREA
        side = float(np.sqrt(generator.uniform(min(settings.crop_area, most), most)))
        top, left = generator.uniform(0.0, 1.0 - side, size=2)
        if variant == "resize":  # antialiased, as the frame is when acting
            height, width = frame.shape[:2]
            corners = (left * width, top * height, (left + side) * width, (top + side) * height)
            frame = np.array(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC, box=corners))
        else:
            frame = crop_resize(frame, (top, left, top + side, left + side), size)
    else:
        frame = prepare(frame, variant, size)
    if not (settings.brightness or settings.contrast or settings.saturation or settings.hue):
        return frame
    image = frame.astype(np.float32) / 255.0
    if settings.brightness:
        image = np.clip(image + generator.uniform(-settings.brightness, settings.brightness), 0.0, 1.0)
    if settings.contrast:
        mean = image.mean(axis=(0, 1), keepdims=True)
        factor = generator.uniform(1.0 - settings.contrast, 1.0 + settings.contrast)
        image = np.clip((image - mean) * factor + mean, 0.0, 1.0)
    if settings.saturation or settings.hue:
        factor = generator.uniform(1.0 - settings.saturation, 1.0 + settings.saturation)
        image = turn_colours(image, factor, generator.uniform(-settings.hue, settings.hue))
    return np.rint(image * 255.0).astype(np.uint8)


def turn_colours(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """Scale the saturation of an image (..., 3) in [0, 1] (at most to 1) and turn its hue by a share of the circle.

    Hue, saturation and value as in Smith, "Color gamut transform pairs" (1978); value stays.
    """
    value, least = image.max(axis=-1, keepdims=True), image.min(axis=-1, keepdims=True)
    spread = value - least
    safe = np.where(spread > 0, spread, 1.0)
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    sixth = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    turned = sixth + 6.0 * hue
    wanted = np.minimum(spread * saturation, value)
    # Channel n of (5, 3, 1): value - wanted * clip(min(k, 4 - k), 0, 1) with k = (n + turned) mod 6.
    k = (np.array([5.0, 3.0, 1.0], dtype=image.dtype) + turned) % 6.0
    return (value - wanted * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)).astype(image.dtype)


class ImageProcessor:
    """Frames to pixels (B, 6, S, S): channels 0-2 normalised for the first tower, 3-5 for the second."""

    def __init__(
        self,
        size: int,
        variant: ImageVariant,
        normalisation: tuple[tuple[Any, Any], tuple[Any, Any]] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        """source: the `preprocessor_config.json` it comes from, whose other entries are kept for whoever reads them."""
        self.size = size
        self.variant = variant
        pairs = normalisation or ((DINO_MEAN, DINO_STD), (SIGLIP_MEAN, SIGLIP_STD))
        self.normalisation = pairs
        self.source = dict(source or {})
        self._means = [torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1) for mean, _ in pairs]
        self._stds = [torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1) for _, std in pairs]

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """Frames (N, H, W, 3) uint8 to (N, S, S, 3) uint8 in the checkpoint's variant.

        Raises: DataError when a frame is not uint8 RGB.
        """

        def one(frame: np.ndarray) -> np.ndarray:
            return prepare(check_frame(frame), self.variant, self.size)

        if len(frames) * self.size**2 < SIDE_BY_SIDE:
            return np.stack([one(frame) for frame in frames])
        return np.stack(list(_threads(os.getpid()).map(one, frames)))

    def normalise(self, prepared: np.ndarray | torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Prepared frames (N, S, S, 3) uint8 to pixels (N, 6, S, S) float32."""
        images = torch.as_tensor(prepared).to(device).permute(0, 3, 1, 2).to(torch.float32).div(255)
        parts = [(images - mean.to(device)) / std.to(device) for mean, std in zip(self._means, self._stds)]
        return torch.cat(parts, dim=1)

    def to_json(self) -> dict[str, Any]:
        """The content of a `preprocessor_config.json`."""
        size = [self.size, self.size]
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "processor_class": "PrismaticProcessor",
            "use_fused_vision_backbone": True,
            "image_resize_strategy": "resize-naive",
            "input_sizes": [[3, *size]] * 2,
            "interpolations": ["bicubic"] * 2,
            "means": [list(mean) for mean, _ in self.normalisation],
            "stds": [list(std) for _, std in self.normalisation],
            "tvf_crop_params": [{"output_size": size}] * 2,
            "tvf_do_letterbox": False,
            "tvf_letterbox_fill": None,
            "tvf_normalize_params": [
                {"inplace": False, "mean": list(mean), "std": list(std)} for mean, std in self.normalisation
            ],
            "tvf_resize_params": [{"antialias": True, "interpolation": 3, "max_size": None, "size": size}] * 2,
            **self.source,
        }

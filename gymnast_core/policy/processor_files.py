"""How a checkpoint says that frames become pixels, wherever versions of transformers put it.

Up to version 4 `preprocessor_config.json` says it; version 5 nests it in `processor_config.json` under
`image_processor`. OpenVLA's values are taken only where no file says anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from gymnast_core.errors import CheckpointError
from gymnast_core.files import read_json
from gymnast_core.policy.config import ImageVariant
from gymnast_core.policy.images import ImageProcessor

FILES = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")
NESTED = "image_processor"
CLASS = "PrismaticImageProcessor"
# Entries that say how a frame is resized, and what `resize` does.
SUPPORTED_RESIZE = {
    "image_resize_strategy": "resize-naive",
    "interpolations": ["bicubic", "bicubic"],
    "tvf_do_letterbox": False,
    "use_fused_vision_backbone": True,
}
BICUBIC = (3, "bicubic")
"""Pillow's number and torchvision's name."""
SAYING = {*SUPPORTED_RESIZE, "means", "stds", "input_sizes", "image_mean", "image_std", "image_processor_type"}
"""Entries that make a mapping one of an image processor, besides those beginning with `tvf_`."""

Pair = tuple[tuple[float, ...], tuple[float, ...]]


def read_image_processor(folder: str | os.PathLike[str], size: int, variant: ImageVariant) -> ImageProcessor:
    """The processor that a checkpoint's files describe; OpenVLA's values where none describes one.

    `tvf_normalize_params` win over `means` and `stds`, as they do in the original code.

    Raises: CheckpointError when a file is not readable, asks for another resize or is another processor's, a deviation
        is not positive, or two files disagree.
    """
    said = {path: content for name in FILES if (content := _read(path := Path(folder) / name)) is not None}
    pairs = {path: _read_pairs(content, size, path) for path, content in said.items()}
    if not pairs:
        return ImageProcessor(size, variant)
    first, *others = pairs
    for other in others:
        if pairs[other] != pairs[first]:
            raise CheckpointError(f"{other}: its means or deviations are not those of {first.name}; remove one")
    return ImageProcessor(size, variant, pairs[first], said[first])


def _read(path: Path) -> dict[str, Any] | None:
    """What a file says of the image processor; None where there is no file, or it speaks of something else."""
    if not os.path.lexists(path):
        return None
    content = read_json(path)
    nested = content.get(NESTED)
    if nested is not None and not isinstance(nested, dict):
        raise CheckpointError(f"{path}: {NESTED} is {shorten(repr(nested), 60)}, needed a mapping")
    flat = {name: value for name, value in content.items() if name in SAYING or name.startswith("tvf_")}
    if nested and flat:
        raise CheckpointError(f"{path}: describes an image processor twice, under {NESTED} and beside it")
    return nested or (content if flat or path.name == FILES[0] else None)


def _read_pairs(content: Mapping[str, Any], size: int, path: Path) -> tuple[Pair, Pair]:
    """Mean and deviation (3,) of both towers' pixels in 0 .. 1. Raises: CheckpointError."""
    kind = content.get("image_processor_type")
    if kind is not None and not str(kind).startswith(CLASS):
        raise CheckpointError(f"{path}: image_processor_type is {shorten(repr(kind), 60)}, needed {CLASS!r}")
    try:
        _check_resize(content, size, path)
        if not content.get("tvf_normalize_params") and not (content.get("means") and content.get("stds")):
            raise ValueError("neither tvf_normalize_params nor means and stds are in it")
        params = content.get("tvf_normalize_params") or [
            {"mean": mean, "std": std} for mean, std in zip(content["means"], content["stds"], strict=True)
        ]
        pairs = tuple((tuple(map(float, p["mean"])), tuple(map(float, p["std"]))) for p in params)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a readable preprocessor config ({error})") from error
    numbers = [value for pair in pairs for part in pair for value in part]
    if [len(part) for pair in pairs for part in pair] != [3] * 4 or not np.isfinite(numbers).all():
        raise CheckpointError(f"{path}: needed two means and two deviations of 3 finite channels each")
    if any(min(std) <= 0 for _, std in pairs):
        raise CheckpointError(f"{path}: a deviation is not positive")
    return pairs[0], pairs[1]


def _check_resize(content: Mapping[str, Any], size: int, path: Path) -> None:
    """See that frames are squashed to `size` as here. Raises: CheckpointError; TypeError and others for odd content."""
    for name, only in SUPPORTED_RESIZE.items():
        if (found := content.get(name, only)) != only:
            raise CheckpointError(f"{path}: {name} is {shorten(repr(found), 60)}, only {only!r} is supported")
    if any(tuple(entry) != (3, size, size) for entry in content.get("input_sizes") or []):
        raise CheckpointError(f"{path}: input_sizes {content['input_sizes']}, config.json says {size}x{size}")
    for entry in content.get("tvf_resize_params") or []:
        bicubic = entry.get("interpolation", BICUBIC[0]) in BICUBIC
        if _side(entry["size"]) != size or not bicubic or entry.get("max_size") or entry.get("antialias") is False:
            raise CheckpointError(
                f"{path}: tvf_resize_params has {shorten(repr(entry), 100)}, only bicubic to {size}x{size} is supported"
            )
    for entry in content.get("tvf_crop_params") or []:
        if _side(entry["output_size"]) != size:
            raise CheckpointError(
                f"{path}: tvf_crop_params has {shorten(repr(entry), 100)}, config.json says {size}x{size}"
            )


def _side(size: Any) -> Any:
    """Of a square given as two sides; None for another shape. One number alone keeps the frame's proportions."""
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
    return sides[0] if isinstance(sides, list) and len(sides) == 2 and sides[0] == sides[1] else None

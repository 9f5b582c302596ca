"""A camera's calibration file, as ROS's camera_calibration writes it (ost.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gymnast_core.config import CameraConfig, Finite, load_config
from gymnast_core.errors import ConfigError

SIZES = {"camera_matrix": (3, 3), "rectification_matrix": (3, 3), "projection_matrix": (3, 4)}
"""Rows and columns."""


@dataclass(frozen=True)
class Matrix:
    """Numbers row by row."""

    rows: Annotated[int, Field(ge=1, le=16)]
    cols: Annotated[int, Field(ge=1, le=16)]
    data: tuple[Finite, ...]


@dataclass(frozen=True)
class Calibration:
    """What sensor_msgs/CameraInfo says of a camera; lengths in pixels."""

    image_width: Annotated[int, Field(ge=16, le=8192)]
    image_height: Annotated[int, Field(ge=16, le=8192)]
    camera_matrix: Matrix
    """K."""
    distortion_coefficients: Matrix
    """D."""
    projection_matrix: Matrix
    """P."""
    rectification_matrix: Matrix = field(default_factory=lambda: Matrix(3, 3, (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)))
    """R."""
    distortion_model: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")] = "plumb_bob"
    camera_name: str = ""

    def __post_init__(self) -> None:
        for name, size in SIZES.items():
            found = getattr(self, name)
            if (found.rows, found.cols) != size:
                raise ConfigError(f"{name}: found {found.rows} x {found.cols}, needed {size[0]} x {size[1]}")
        for name in (*SIZES, "distortion_coefficients"):
            found = getattr(self, name)
            if len(found.data) != found.rows * found.cols:
                raise ConfigError(f"{name}.data: found {len(found.data)} numbers, needed {found.rows} x {found.cols}")


def read_calibration(path: Path, camera: CameraConfig) -> Calibration:
    """Read a calibration file. Raises: ConfigError naming file and field, also where it is of another picture size."""
    found = load_config(Calibration, path)
    if (found.image_width, found.image_height) != (camera.width, camera.height):
        raise ConfigError(
            f"{path}: found a calibration of {found.image_width}x{found.image_height} pixels, the station file says "
            f"{camera.width}x{camera.height} (camera.width, camera.height)"
        )
    return found

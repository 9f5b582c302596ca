"""Options of `gymnast camera check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field


@dataclass(frozen=True)
class CameraCheckConfig:
    """Hold the live picture against the station's reference photograph (`evaluation.reference_view`). Exit code 0: the
    view is as it was; 1: it is beyond a limit; 2: there is no picture, or nothing to hold it against.

    The picture comes from the running station, else from whoever publishes `camera.topic`, else, where the station file
    names a device, from the device itself, also without ROS."""

    config: tyro.conf.Positional[str]
    """Station file: a path, or the name of a shipped one."""
    reference: str = ""
    """Another photograph in the place of `evaluation.reference_view`."""
    take: str = ""
    """Write the live picture to this .png file, as a new reference photograph, and compare nothing."""
    out: str = "runs/camera_check.png"
    """Picture that is written: reference, live, and both in one, in which edges that moved are red and cyan."""
    seconds: Annotated[float, Field(ge=0.5, le=60.0)] = 3.0
    """How long the station, and then a picture, is waited for."""
    namespace: str = ""
    """Namespace of gymnast's own nodes."""
    json: bool = False
    """Print one JSON object."""

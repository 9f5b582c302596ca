"""Scenes as data: a MuJoCo model, what a reset varies, and when a task counts as done."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gymnast_core.config import Finite, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.simulation.arm_body import ArmBody
from gymnast_core.simulation.success import Success

SCENES = Path(__file__).resolve().parent / "scenes"
Range = tuple[Finite, Finite]


@dataclass(frozen=True)
class Offsets:
    """Uniform ranges of an offset, metres."""

    x: Range = (0.0, 0.0)
    y: Range = (0.0, 0.0)
    z: Range = (0.0, 0.0)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """One offset (3,), metres."""
        return np.array([random.uniform(*self.x), random.uniform(*self.y), random.uniform(*self.z)])


@dataclass(frozen=True)
class Placement:
    """Where an object with a free joint lies at the start: at a site of the model, upright as the model has it."""

    at: str
    """Site that its centre is put at."""
    x: Range = (0.0, 0.0)
    """Uniform offset along the base frame's x, metres; y likewise."""
    y: Range = (0.0, 0.0)
    yaw: Range = (0.0, 0.0)
    """Uniform rotation about the vertical, radians."""


@dataclass(frozen=True)
class SceneTask:
    """Start state and success predicate of one task."""

    success: Success
    joints: dict[str, Range] = field(default_factory=dict)
    """Scene joints at the start: uniform range, metres or radians."""
    bodies: dict[str, Placement] = field(default_factory=dict)
    """Objects with a free joint, and where they lie at the start."""


@dataclass(frozen=True)
class Scene:
    """One scene file."""

    model: str
    """MuJoCo XML beside the scene file; it includes wx250s.xml, whose place another arm can take."""
    tasks: dict[str, SceneTask]
    camera: str = "front"
    """Camera of the model that is published."""
    surface: str = "table"
    """Geom of the model on whose top things may stand."""
    drawer_joint: str = ""
    """Joint whose position is reported as the drawer's opening; empty: there is none."""
    randomise: dict[str, Offsets] = field(default_factory=dict)
    """Bodies whose place varies."""
    light: dict[str, tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]] = field(default_factory=dict)
    """Lights whose strength varies: range of the factor."""
    arm_start: Offsets = field(default_factory=Offsets)
    """How far the arm's start position varies."""

    def task(self, name: str) -> SceneTask:
        """Raises: ConfigError that lists the tasks there are."""
        if name not in self.tasks:
            raise ConfigError(f"the scene has no task '{name}'; it has: {', '.join(sorted(self.tasks))}")
        return self.tasks[name]


def load_scene(name: str | os.PathLike[str]) -> tuple[Scene, Path]:
    """A shipped scene by name ("drawer") or a scene file by path; returns it and its model's path.

    Raises: ConfigError when there is no such scene, a field is wrong, or the model file is missing.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        path = SCENES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SCENES.glob("*.yaml")))
        raise ConfigError(f"scene '{name}': no such scene file; shipped scenes: {shipped}")
    scene = load_config(Scene, path)
    model = path.parent / scene.model
    if not model.is_file():
        raise ConfigError(f"{path}: model: found '{scene.model}', but there is no such file beside it")
    return scene, model


OWN_ARM = '<include file="wx250s.xml"/>'
"""How a scene's model includes the arm that it is written with."""


def mujoco_model(path: Path, body: ArmBody) -> Any:
    """The MjModel of a scene with this arm: its own, or one of a vendor's installed package in the place of it.

    With a vendor's arm, a scene can have no meshes or textures of its own. Raises: ConfigError where the package is
    missing, the scene does not include the arm by itself, or MuJoCo does not read it.
    """
    import mujoco

    if body.package is None:
        return mujoco.MjModel.from_xml_path(str(path))
    package, file = body.package
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"the arm's MuJoCo model is in its vendor's package; pip install {package.replace('_', '-')}")
    arm = Path(found.submodule_search_locations[0]) / file
    text = path.read_text(encoding="utf-8")
    if text.count(OWN_ARM) != 1 or "<compiler " not in text:
        raise ConfigError(
            f"{path}: needed {OWN_ARM} and a <compiler> once each, so that another arm can take its place"
        )
    text = text.replace(OWN_ARM, f'<include file="{arm}"/>')
    text = text.replace("<compiler ", f'<compiler meshdir="{arm.parent}" ', 1)
    try:
        return mujoco.MjModel.from_xml_string(text)
    except ValueError as error:
        raise ConfigError(f"{path}: MuJoCo does not read it: {' '.join(str(error).split())}") from error

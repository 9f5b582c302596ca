"""What an arm is: its joints and links, its limits, its gripper, how its driver tells effort; read from a description.

Everything that knows an arm's figures has them from here. A description is a YAML file of `gymnast_core/robot/arms/`,
chosen by name in the station file (`arm.model: wx250s`), or one's own by its path. Six joints, all of which turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gymnast_core.config import Positive, Vector3, Vector6, load_config
from gymnast_core.errors import ConfigError

ARMS = Path(__file__).resolve().parent / "arms"
Name = Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,99}$")]


@dataclass(frozen=True)
class JointModel:
    """One joint that turns, and where it stands."""

    name: Name
    """As in the driver's joint states."""
    origin: Vector3
    """In the frame of the joint before (the base, for the first), metres."""
    axis: Vector3
    """That it turns about, of length 1, in its own frame."""
    lower: Annotated[float, Field(ge=-2 * math.pi, le=2 * math.pi)]
    """Smallest angle, radians."""
    upper: Annotated[float, Field(ge=-2 * math.pi, le=2 * math.pi)]
    """Largest angle."""
    rpy: Vector3 = (0.0, 0.0, 0.0)
    """How its frame is turned in the one before: roll, pitch, yaw as in a URDF, radians."""
    effort_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Effort above which the arm holds, in the arm's unit; of an arm in milliamperes, at least `arm.max_effort_ma`."""

    temperature_limit: Positive | None = None
    """Degrees Celsius at which its motor lets go; none: not known, and nobody is warned."""
    motor_models: tuple[int, ...] = ()
    """Model numbers, as its register has them, of the motors that fit; none: they are not compared."""

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ConfigError(f"{self.name}: lower {self.lower:g} is not below upper {self.upper:g}")
        if abs(math.hypot(*self.axis) - 1.0) > 1e-6:
            raise ConfigError(f"{self.name}.axis: found {list(self.axis)}, needed a direction of length 1")


@dataclass(frozen=True)
class ToolFrame:
    """The end effector in the last joint's frame: x points out of the gripper, y along its fingers' motion."""

    origin: Vector3
    """Metres."""
    rpy: Vector3 = (0.0, 0.0, 0.0)
    """Radians."""


@dataclass(frozen=True)
class GripperModel:
    """Two fingers that move alike."""

    joint: Name
    """The finger's name in the joint states."""
    closed: Annotated[float, Field(ge=-1, le=1)]
    """Its joint with the gripper closed, metres."""
    open: Annotated[float, Field(ge=-1, le=1)]
    """Its joint with the gripper open, metres."""
    speed: Positive
    """Metres a second that it never exceeds."""
    pwm: bool = True
    """Whether the driver takes PWM for it; otherwise it is driven by distance alone (`arm.gripper`)."""
    temperature_limit: Positive | None = None
    """As of a joint."""
    motor_models: tuple[int, ...] = ()
    """As of a joint."""

    def __post_init__(self) -> None:
        if not self.closed < self.open:
            raise ConfigError(f"gripper: closed {self.closed:g} is not below open {self.open:g}")


@dataclass(frozen=True)
class EffortModel:
    """How the driver tells effort. Every figure is in `unit`."""

    unit: Literal["mA", "Nm"]
    """Milliamperes of the motors, or newton metres of the joints."""
    largest: Positive
    """No joint can measure more."""
    deaf: Positive
    """A joint far from its target pushes with more than this, unless its commands do not reach it."""
    limp: Positive
    """A motor that merely turns freely takes more than this; less is one without torque."""


@dataclass(frozen=True, eq=False)
class ArmModel:
    """One kind of arm. Equal only to itself: there is one of each description."""

    title: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,80}$")]
    """Its name for people."""
    joints: tuple[JointModel, JointModel, JointModel, JointModel, JointModel, JointModel]
    """From the base to the tool."""
    end_effector: ToolFrame
    joint_speed: Positive
    """Radians a second that no joint exceeds."""
    gripper: GripperModel
    effort: EffortModel
    sleep_pose: Vector6
    """Radians: where it lies without torque."""
    down_pose: Vector6
    """Radians: gripper straight down over the middle of the table, where the search for such poses starts."""
    shadows: tuple[Name, ...] = ()
    """Second motors of a joint, which reads of the group never reach, named after it: shoulder_shadow."""
    may_reboot: tuple[Name, ...] = ()
    """Motors that may let go for a second while the arm holds: the others carry it."""
    supply_volts: tuple[Positive, Positive] | None = None
    """Lowest and highest supply under load; none: not known."""
    name: str = ""
    """Of the description's file; not written in it."""

    def __post_init__(self) -> None:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ConfigError(f"joints: {twice[0]} stands there twice")
        for field in ("sleep_pose", "down_pose"):
            for joint, angle in zip(self.joints, getattr(self, field)):
                if not joint.lower <= angle <= joint.upper:
                    raise ConfigError(
                        f"{field}: {joint.name} at {angle:g} is outside {joint.lower:g} to {joint.upper:g}"
                    )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the six joints."""
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def motors(self) -> tuple[str, ...]:
        """As a read of all motors answers: the joints', then the gripper's."""
        return (*self.names, "gripper")

    @cached_property
    def lower(self) -> np.ndarray:
        """(6,) radians, read-only."""
        return _fixed([joint.lower for joint in self.joints])

    @cached_property
    def upper(self) -> np.ndarray:
        """(6,) radians, read-only."""
        return _fixed([joint.upper for joint in self.joints])

    @cached_property
    def temperature_limits(self) -> dict[str, float]:
        """Degrees Celsius at which motors let go, by name, as far as it is known."""
        limits = {joint.name: joint.temperature_limit for joint in self.joints}
        limits |= {shadow: limits.get(shadow.removesuffix("_shadow")) for shadow in self.shadows}
        limits["gripper"] = self.gripper.temperature_limit
        return {name: limit for name, limit in limits.items() if limit is not None}

    @cached_property
    def motor_models(self) -> dict[str, tuple[int, ...]]:
        """Model numbers that fit, by name of the motor, where they are compared."""
        models = {joint.name: joint.motor_models for joint in self.joints} | {"gripper": self.gripper.motor_models}
        return {name: fitting for name, fitting in models.items() if fitting}

    def gripper_mode(self, wanted: str) -> Literal["pwm", "linear_position"]:
        """How the gripper is driven. wanted: the station's `arm.gripper`; not every gripper takes PWM."""
        return "pwm" if wanted == "pwm" and self.gripper.pwm else "linear_position"

    def effort_limits(self, max_effort_ma: float) -> np.ndarray:
        """(6,) in the arm's unit: efforts above which it holds. max_effort_ma: the station's, for an arm in mA."""
        station = max_effort_ma if self.effort.unit == "mA" else 0.0
        return np.array([max(station, joint.effort_limit) for joint in self.joints])


def _fixed(values: object) -> np.ndarray:
    """float64, read-only."""
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


@cache
def arm_model(name: str) -> ArmModel:
    """The arm of a shipped description ("wx250s"), or of one's own by path ("my_arm.yaml").

    Raises: ConfigError listing the shipped ones, or naming file and field.
    """
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else ARMS / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(found.stem for found in ARMS.glob("*.yaml")))
        raise ConfigError(f"arm.model: found '{name}', needed the path of a description, or one of: {shipped}")
    model = load_config(ArmModel, path)
    if model.name:
        raise ConfigError(f"{path}: name: found '{model.name}'; leave it out, the file's name is the arm's")
    object.__setattr__(model, "name", path.stem)
    return model


WX250S = arm_model("wx250s")
"""The arm of Bridge data, and of a station file that names none."""

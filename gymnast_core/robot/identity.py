"""Whether the arm at the driver is the one that the station file names, whose figures it is driven with.

All six-joint X-Series arms share their joint names, so limits, the finger's range and, where the driver tells them, the
links' lengths decide. Narrower joint limits are somebody's wall; wider ones, or another finger, are another arm.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.errors import StationError
from gymnast_core.robot.arm_model import WX250S, ArmModel

LIMIT_TOLERANCE = 0.03
"""Radians; the ViperX's wrist goes 0.09 rad and 0.12 rad farther."""
FINGER_TOLERANCE = 0.003
"""Metres; the ViperX's fingers open 20 mm wider."""
LINK_TOLERANCE = 0.003
"""Metres; the ViperX's links are 9 to 50 mm longer."""
MOTOR_NAMES = {1020: "XM430-W350", 1030: "XM430-W210", 1060: "XL430-W250", 1120: "XM540-W270"}
"""Of Dynamixels, by model number."""
SLEEP_POSE = WX250S.sleep_pose
"""Radians: folded upon itself, where the arm of Bridge data lies without torque."""
SLEEP_TOLERANCE = 0.2
"""Radians; the vendor's driver says 0 for each joint where nobody configured the pose, and there the arm would fall."""


@dataclass(frozen=True)
class ArmLimits:
    """What the driver says of the arm: joint limits in radians, the left finger's range in metres."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    finger_closed: float
    finger_open: float


def check_limits(limits: ArmLimits, arm: ArmModel = WX250S) -> ArmLimits:
    """Returns `limits`. Raises: StationError naming what does not fit `arm`."""
    if len(limits.lower) != 6 or len(limits.upper) != 6:
        raise StationError("the driver reports no joint limits; it was started without robot_description")
    wrong = []
    for joint, low, high in zip(arm.joints, limits.lower, limits.upper):
        if low < joint.lower - LIMIT_TOLERANCE or high > joint.upper + LIMIT_TOLERANCE or not low < high:
            wrong.append(
                f"{joint.name} goes from {_degrees(low)} to {_degrees(high)} degrees instead of "
                f"{_degrees(joint.lower)} to {_degrees(joint.upper)}"
            )
    ends = ((limits.finger_closed, arm.gripper.closed), (limits.finger_open, arm.gripper.open))
    if not all(abs(found - wanted) <= FINGER_TOLERANCE for found, wanted in ends):
        wrong.append(
            f"the finger goes from {limits.finger_closed:.3f} to {limits.finger_open:.3f} m instead of "
            f"{arm.gripper.closed:.3f} to {arm.gripper.open:.3f}"
        )
    if wrong:
        raise StationError(_another_arm(wrong, arm))
    return limits


def check_sleep_pose(joints: Sequence[float], arm: ArmModel = WX250S) -> np.ndarray:
    """The driver's sleep pose (6,), radians. Raises: StationError when `arm` does not lie there."""
    pose = np.array(joints, dtype=np.float64)
    if pose.shape != (6,) or not (np.abs(pose - arm.sleep_pose) <= SLEEP_TOLERANCE).all():
        found = ", ".join(f"{value:.2f}" for value in joints) or "none"
        needed = ", ".join(f"{value:g}" for value in arm.sleep_pose)
        raise StationError(
            f"the driver's sleep pose: found {found}, needed {needed} within {SLEEP_TOLERANCE:g} rad; elsewhere an arm "
            "that is let go would fall (sleep_positions in the driver's motor configuration)"
        )
    return pose


def check_motor_models(found: Mapping[str, int], arm: ArmModel = WX250S) -> None:
    """found: model numbers by motor, as far as the driver tells them.

    Raises: StationError naming the motors that are not `arm`'s.
    """
    wrong = [
        f"{motor} has a motor of model {_motor(found[motor])} instead of {' or '.join(map(_motor, fitting))}"
        for motor, fitting in arm.motor_models.items()
        if motor in found and found[motor] not in fitting
    ]
    if wrong:
        raise StationError(_another_arm(wrong, arm))


def check_description(description: str, arm: ArmModel = WX250S) -> None:
    """Link lengths of the arm's URDF. Raises: StationError naming the links that are not `arm`'s."""
    if "<!" in description.replace("<!--", ""):
        raise StationError("the driver's robot_description declares a document type or entities; that is not read")
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as error:
        raise StationError(f"the driver's robot_description is no XML: {error}") from error
    found = {joint.get("name"): joint.find("origin") for joint in root.iter("joint")}
    wrong = []
    for joint in arm.joints:
        name, wanted = joint.name, joint.origin
        origin = found.get(name)
        text = "0 0 0" if origin is None else origin.get("xyz", "0 0 0")
        try:
            place = [float(word) for word in text.split()]
        except ValueError:
            place = []
        if name not in found:
            wrong.append(f"it has no joint {name}")
        elif len(place) != 3 or not math.dist(place, wanted) <= LINK_TOLERANCE:
            wrong.append(f"{name} stands at {text} m instead of {' '.join(f'{x:g}' for x in wanted)}")
    if wrong:
        raise StationError(_another_arm(wrong, arm))


def _another_arm(wrong: list[str], arm: ArmModel) -> str:
    return f"this is no {arm.title}: {'; '.join(wrong)}; is robot_model {arm.name}, and that arm connected?"


def _motor(model: int) -> str:
    return f"{model} ({MOTOR_NAMES[model]})" if model in MOTOR_NAMES else str(model)


def _degrees(angle: float) -> str:
    return f"{math.degrees(angle):.0f}"

"""Whether the arm at the driver is the WidowX 250s that the kinematics, limits and gripper figures here are of.

All six-joint X-Series arms share their joint names, so limits, the finger's range and, where the driver tells them, the
links' lengths decide. Narrower joint limits are somebody's wall; wider ones, or another finger, are another arm.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.errors import StationError
from gymnast_core.robot.gripper import FINGER_CLOSED, FINGER_OPEN
from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER

LIMIT_TOLERANCE = 0.03
"""Radians; the ViperX's wrist goes 0.09 rad and 0.12 rad farther."""
FINGER_TOLERANCE = 0.003
"""Metres; the ViperX's fingers open 20 mm wider."""
LINK_TOLERANCE = 0.003
"""Metres; the ViperX's links are 9 to 50 mm longer."""
SLEEP_POSE = (0.0, -1.80, 1.55, 0.0, 0.8, 0.0)
"""Radians: folded upon itself, where a WidowX 250s lies without torque (the vendor's configuration)."""
SLEEP_TOLERANCE = 0.2
"""Radians; the vendor's driver says 0 for each joint where nobody configured the pose, and there the arm would fall."""
LINKS = {
    "waist": (0.0, 0.0, 0.072),
    "shoulder": (0.0, 0.0, 0.03865),
    "elbow": (0.04975, 0.0, 0.25),
    "forearm_roll": (0.175, 0.0, 0.0),
    "wrist_angle": (0.075, 0.0, 0.0),
    "wrist_rotate": (0.065, 0.0, 0.0),
}
"""Metres: each joint's origin in the frame of the one before, all turned alike at zero (the vendor's URDF)."""


@dataclass(frozen=True)
class ArmLimits:
    """What the driver says of the arm: joint limits in radians, the left finger's range in metres."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    finger_closed: float
    finger_open: float


def check_limits(limits: ArmLimits) -> ArmLimits:
    """Returns `limits`. Raises: StationError naming what does not fit a WidowX 250s."""
    if len(limits.lower) != 6 or len(limits.upper) != 6:
        raise StationError("the driver reports no joint limits; it was started without robot_description")
    wrong = []
    for i, name in enumerate(JOINT_NAMES):
        low, high = limits.lower[i], limits.upper[i]
        if low < JOINT_LOWER[i] - LIMIT_TOLERANCE or high > JOINT_UPPER[i] + LIMIT_TOLERANCE or not low < high:
            wrong.append(
                f"{name} goes from {_degrees(low)} to {_degrees(high)} degrees instead of "
                f"{_degrees(JOINT_LOWER[i])} to {_degrees(JOINT_UPPER[i])}"
            )
    ends = ((limits.finger_closed, FINGER_CLOSED), (limits.finger_open, FINGER_OPEN))
    if not all(abs(found - wanted) <= FINGER_TOLERANCE for found, wanted in ends):
        wrong.append(
            f"the finger goes from {limits.finger_closed:.3f} to {limits.finger_open:.3f} m instead of "
            f"{FINGER_CLOSED:.3f} to {FINGER_OPEN:.3f}"
        )
    if wrong:
        raise StationError(_no_widowx(wrong))
    return limits


def check_sleep_pose(joints: Sequence[float]) -> np.ndarray:
    """The driver's sleep pose (6,), radians. Raises: StationError when a WidowX 250s does not lie there."""
    pose = np.array(joints, dtype=np.float64)
    if pose.shape != (6,) or not (np.abs(pose - SLEEP_POSE) <= SLEEP_TOLERANCE).all():
        found = ", ".join(f"{value:.2f}" for value in joints) or "none"
        needed = ", ".join(f"{value:g}" for value in SLEEP_POSE)
        raise StationError(
            f"the driver's sleep pose: found {found}, needed {needed} within {SLEEP_TOLERANCE:g} rad; elsewhere an arm "
            "that is let go would fall (sleep_positions in the driver's motor configuration)"
        )
    return pose


def check_description(description: str) -> None:
    """Link lengths of the arm's URDF. Raises: StationError naming the links that are not a WidowX 250s's."""
    if "<!" in description.replace("<!--", ""):
        raise StationError("the driver's robot_description declares a document type or entities; that is not read")
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as error:
        raise StationError(f"the driver's robot_description is no XML: {error}") from error
    found = {joint.get("name"): joint.find("origin") for joint in root.iter("joint")}
    wrong = []
    for name, wanted in LINKS.items():
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
        raise StationError(_no_widowx(wrong))


def _no_widowx(wrong: list[str]) -> str:
    return f"this is no WidowX 250s: {'; '.join(wrong)}; is robot_model wx250s, and that arm connected?"


def _degrees(angle: float) -> str:
    return f"{math.degrees(angle):.0f}"

"""The WidowX 250s as bodies with shapes, read from the MJCF that the simulator uses, for whoever draws the arm.

No simulator is needed for it: of the file only bodies, joints, boxes, cylinders and colours are read.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from gymnast_core.config import PACKAGE_ROOT, ArmConfig
from gymnast_core.errors import DataError
from gymnast_core.robot.arm_model import WX250S
from gymnast_core.robot.bridge import matrix_from_bridge_pose
from gymnast_core.robot.kinematics import solve_ik

MJCF = PACKAGE_ROOT / "simulation" / "scenes" / "wx250s.xml"
FINGERS = ("left_finger", "right_finger")
END_EFFECTOR = "end_effector"
IK_ERROR_M = 0.02
"""A measured pose that joints reach no better than this is not drawn."""


@dataclass(frozen=True)
class Shape:
    """A box (half: (3,) metres) or a cylinder along z (half: radius, half length, 0), at `centre` of its body.

    colour: RGBA, 0 to 255."""

    kind: str
    centre: tuple[float, ...]
    half: tuple[float, ...]
    colour: tuple[int, ...]


@dataclass(frozen=True)
class Body:
    """A part of the arm. position: in its parent, metres. joint: its name, empty where the body is fixed. axis: of the
    joint. slides: whether the joint shifts instead of turning."""

    name: str
    path: str
    position: tuple[float, ...]
    joint: str = ""
    axis: tuple[float, ...] = (0.0, 0.0, 1.0)
    slides: bool = False
    shapes: tuple[Shape, ...] = ()
    sites: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmModel:
    """bodies: parents before children; a body's path ends in its name. reach: of a finger, closed and open, metres."""

    bodies: tuple[Body, ...]
    reach: tuple[float, float]

    def joints(self, joints: np.ndarray, opening: float) -> dict[str, float]:
        """Value of every joint, radians or metres, by name. joints: (6,). opening: 0 to 1."""
        closed, opened = self.reach
        finger = closed + float(np.clip(opening, 0.0, 1.0)) * (opened - closed)
        return {**dict(zip(WX250S.names, map(float, joints))), **dict.fromkeys(FINGERS, finger)}

    def pose(self, body: str, joints: np.ndarray, opening: float = 1.0) -> np.ndarray:
        """(4, 4) of a body, or of a site, in the base frame."""
        values, poses = self.joints(joints, opening), {"": np.eye(4)}
        for one in self.bodies:
            parent = one.path.rpartition("/")[0]
            poses[one.path] = poses[parent] @ _moved(one, values.get(one.joint, 0.0))
            if one.name == body:
                return poses[one.path]
            if body in one.sites:
                place = np.eye(4)
                place[:3, 3] = one.sites[body]
                return poses[one.path] @ place
        raise DataError(f"{MJCF.name}: has no body or site {body!r}")


@cache
def arm_model() -> ArmModel:
    """The arm of the shipped MJCF. Raises: DataError where the file cannot be read."""
    try:
        root = ElementTree.parse(MJCF).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{MJCF}: cannot read: {error}") from error
    colours = {one.get("name", ""): _numbers(one.get("rgba", ".5 .5 .5 1")) for one in root.iter("material")}
    finger = root.find(".//default[@class='finger_joint']/joint")
    reach = _numbers(finger.get("range", "") if finger is not None else ".015 .037")
    bodies: list[Body] = []

    def walk(element: ElementTree.Element, path: str) -> None:
        for child in element.findall("body"):
            name = child.get("name", "")
            bodies.append(_body(child, f"{path}/{name}" if path else name, colours))
            walk(child, f"{path}/{name}" if path else name)

    world = root.find("worldbody")
    if world is not None:
        walk(world, "")
    return ArmModel(tuple(bodies), (reach[0], reach[1]))


def joints_of_states(states: np.ndarray) -> list[np.ndarray | None]:
    """Joints (6,) that bring the end effector to each measured state (T, 7), the one after the other; None where it
    was not measured, or no joints reach it."""
    seed = solve_ik(_start(), np.zeros(6), arm=WX250S).joints
    found: list[np.ndarray | None] = []
    for state in states:
        if not np.isfinite(state[:6]).all():
            found.append(None)
            continue
        solved = solve_ik(matrix_from_bridge_pose(state[:6].astype(np.float64)), seed, arm=WX250S)
        seed = solved.joints
        found.append(solved.joints if solved.position_error < IK_ERROR_M else None)
    return found


def _start() -> np.ndarray:
    return matrix_from_bridge_pose(np.array([*ArmConfig().start_position, 0.0, 0.0, 0.0]))


def _body(element: ElementTree.Element, path: str, colours: dict[str, tuple[float, ...]]) -> Body:
    joint = element.find("joint")
    shapes = tuple(_shape(one, colours) for one in element.findall("geom"))
    sites = {one.get("name", ""): _numbers(one.get("pos", "0 0 0")) for one in element.findall("site")}
    place = _numbers(element.get("pos", "0 0 0"))
    if joint is None:
        return Body(element.get("name", ""), path, place, shapes=shapes, sites=sites)
    axis, slides = _numbers(joint.get("axis", "0 0 1")), joint.get("class") == "finger_joint"
    return Body(element.get("name", ""), path, place, joint.get("name", ""), axis, slides, shapes, sites)


def _shape(element: ElementTree.Element, colours: dict[str, tuple[float, ...]]) -> Shape:
    half = _numbers(element.get("size", ""))
    colour = colours.get(element.get("material", ""), (0.13, 0.13, 0.15, 1.0))
    return Shape(
        element.get("type", "box"),
        _numbers(element.get("pos", "0 0 0")),
        (*half, *(0.0,) * (3 - len(half))),
        tuple(round(255 * part) for part in colour),
    )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split())


def _moved(body: Body, value: float) -> np.ndarray:
    """(4, 4) of a body in its parent, with its joint at `value`."""
    pose = np.eye(4)
    pose[:3, 3] = body.position
    axis = np.array(body.axis)
    motion = np.eye(4)
    if body.slides:
        motion[:3, 3] = value * axis
    elif body.joint:
        x, y, z = axis
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        motion[:3, :3] = np.eye(3) + math.sin(value) * skew + (1.0 - math.cos(value)) * skew @ skew
    return pose @ motion

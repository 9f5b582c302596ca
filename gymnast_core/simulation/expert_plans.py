"""What the scripted expert does next, from the simulator's state: a plan for each kind of task.

A plan says where the end effector shall go, how it shall be turned, and whether the gripper shall be open. The expert
(`expert.py`) makes steps of it, and adds its faults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gymnast_core.robot.bridge import bridge_pose_from_matrix
from gymnast_core.simulation.simulator import SimulatedStation
from gymnast_core.simulation.success import PlaceSuccess

MAX_STEP = 0.045
"""Metres along each axis in one step."""
MAX_TURN = 0.22
"""Radians in one step."""


@dataclass(frozen=True)
class Wanted:
    """position: of the end effector, (3,) metres, base frame. turn: about the vertical, radians. gripper: 1 = open."""

    position: np.ndarray
    turn: float = 0.0
    gripper: float = 1.0


class Plan(Protocol):
    """One task's plan during one episode."""

    def next(self, station: SimulatedStation, aim: np.ndarray) -> Wanted | None:
        """What to do now; None when the task is done. aim: (2,) metres, how far it aims beside its object."""


class DrawerPlan:
    """Opens or closes the drawer by its handle."""

    BEHIND_BAR = -0.012
    """End effector y relative to the handle's bar when the far finger hangs behind it, metres."""
    BEFORE_BAR = -0.062
    """The same with both fingers in front of the bar, to push it."""
    TRAVEL_HEIGHT = 0.180
    GRASP_HEIGHT = 0.080
    DONE_OPEN = 0.095
    DONE_CLOSED = 0.006
    TOLERANCE = 0.010

    def __init__(self, opening: bool) -> None:
        self._opening = opening
        self._lowered = False

    def next(self, station: SimulatedStation, aim: np.ndarray) -> Wanted | None:
        """See `Plan`."""
        handle = station.view.site_position("handle")
        here = station.end_effector()[:3, 3]
        drawer = station.drawer_opening
        if (self._opening and drawer > self.DONE_OPEN) or (not self._opening and drawer < self.DONE_CLOSED):
            return None
        side = self.BEHIND_BAR if self._opening else self.BEFORE_BAR
        above = np.array([handle[0] + aim[0], handle[1] + side + aim[1], self.TRAVEL_HEIGHT])
        near = np.abs(here[:2] - above[:2]).max() < self.TOLERANCE
        if self._lowered and here[2] > self.TRAVEL_HEIGHT - 0.03:
            self._lowered = False
        if near and here[2] > self.GRASP_HEIGHT + 0.015:
            return Wanted(np.array([*above[:2], self.GRASP_HEIGHT]))
        if near or self._lowered:
            self._lowered = True
            return Wanted(np.array([above[0], here[1] + (-MAX_STEP if self._opening else MAX_STEP), self.GRASP_HEIGHT]))
        return Wanted(above)


class PlacePlan:
    """Grasps an object across its long axis, carries it over the place where it belongs, and lets it go there."""

    TRAVEL_HEIGHT = 0.215
    """Of the end effector: what hangs from it clears every rim."""
    OVER_CENTRE = 0.012
    """Of the end effector above the object's centre in a grasp, metres: finger tips reach 20 mm farther down, and the
    floor is 20 mm below the centre."""
    HALF_THICKNESS = 0.020
    """Of what is carried, metres."""
    RELEASE_ABOVE = 0.015
    """Metres above a grasp at the place's floor."""
    TOLERANCE = 0.008
    TURN_TOLERANCE = 0.08
    CLOSING = 3
    """Steps until the fingers have closed."""

    def __init__(self, success: PlaceSuccess) -> None:
        self._success = success
        self._closed = 0

    def next(self, station: SimulatedStation, aim: np.ndarray) -> Wanted | None:
        """See `Plan`."""
        here = station.end_effector()
        thing = station.view.body_pose(self._success.body)
        if self._success.holds(station.view) and here[2, 3] > self.TRAVEL_HEIGHT - 0.02:
            return None
        if self._success.holds(station.view):
            self._closed = 0
            return Wanted(np.array([*here[:2, 3], self.TRAVEL_HEIGHT]))
        if self._closed:
            return self._carry(station, here, thing)
        return self._approach(here, thing, aim)

    def _approach(self, here: np.ndarray, thing: np.ndarray, aim: np.ndarray) -> Wanted:
        """Above the object, down, and around it."""
        grasp = np.array([*(thing[:2, 3] + aim), thing[2, 3] + self.OVER_CENTRE])
        turn = _turn(here, math.atan2(thing[1, 0], thing[0, 0]))
        beside = float(np.abs(here[:2, 3] - grasp[:2]).max())
        if beside > self.TOLERANCE or abs(turn) > self.TURN_TOLERANCE:
            height = self.TRAVEL_HEIGHT if beside > 3 * self.TOLERANCE else max(here[2, 3], grasp[2] + 0.05)
            if beside > 3 * self.TOLERANCE and here[2, 3] < self.TRAVEL_HEIGHT - 0.02:
                return Wanted(np.array([*here[:2, 3], height]), turn)
            return Wanted(np.array([*grasp[:2], height]), turn)
        if here[2, 3] > grasp[2] + self.TOLERANCE:
            return Wanted(grasp, turn)
        self._closed = 1
        return Wanted(here[:3, 3], gripper=0.0)

    def _carry(self, station: SimulatedStation, here: np.ndarray, thing: np.ndarray) -> Wanted:
        """Close, lift, over the place, down, and let go."""
        self._closed += 1
        if self._closed <= self.CLOSING:
            return Wanted(here[:3, 3], gripper=0.0)
        if not station.view.is_held(self._success.body):
            self._closed = 0
            return Wanted(np.array([*here[:2, 3], self.TRAVEL_HEIGHT]))
        place, floor = station.view.place(self._success.site)
        if np.abs(thing[:2, 3] - place[:2]).max() < 2 * self.TOLERANCE:
            release = floor + self.HALF_THICKNESS + self.OVER_CENTRE + self.RELEASE_ABOVE
            if here[2, 3] < release + self.TOLERANCE:
                return Wanted(here[:3, 3])
            return Wanted(np.array([*(here[:2, 3] + place[:2] - thing[:2, 3]), release]), gripper=0.0)
        if here[2, 3] < self.TRAVEL_HEIGHT - 0.02:
            return Wanted(np.array([*here[:2, 3], self.TRAVEL_HEIGHT]), gripper=0.0)
        over = here[:2, 3] + place[:2] - thing[:2, 3]
        return Wanted(np.array([*over, self.TRAVEL_HEIGHT]), _turn(here, 0.0), gripper=0.0)


def _turn(here: np.ndarray, yaw: float) -> float:
    """The shorter way from the gripper's yaw to `yaw` or to its opposite, which grasps alike, radians."""
    left = yaw - float(bridge_pose_from_matrix(here)[5])
    return (left + math.pi / 2) % math.pi - math.pi / 2

"""When a task counts as done: a joint's position, or an object that lies in a place. For scoring only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from pydantic import Discriminator, Tag

from gymnast_core.config import Finite

MOST_CREDIT = 0.99
"""Of a state that is not success."""
JOINT, OBJECT = "a joint's position", "an object in a place"


class SceneState(Protocol):
    """What a predicate may look at."""

    def joint_position(self, name: str) -> float:
        """Metres or radians."""

    def inside(self, body: str, site: str) -> np.ndarray:
        """How far the body's centre lies outside the site's box along each of its axes, (3,) metres; 0: inside."""

    def is_held(self, body: str) -> bool:
        """Whether the gripper touches the body."""


@dataclass(frozen=True)
class JointSuccess:
    """Done while a joint is between two positions (metres or radians)."""

    joint: str
    above: Finite = float("-1e9")
    below: Finite = float("1e9")

    def holds(self, state: SceneState) -> bool:
        """Whether the task is done now."""
        return self.above < state.joint_position(self.joint) < self.below

    def distance(self, state: SceneState) -> float:
        """What is missing, metres or radians."""
        position = state.joint_position(self.joint)
        return max(self.above - position, position - self.below, 0.0)


@dataclass(frozen=True)
class PlaceSuccess:
    """Done while an object lies in a place, and the gripper has let it go."""

    body: str
    """The object: a body of the model with a free joint."""
    site: str
    """The place: a site of the model that is a box."""

    def holds(self, state: SceneState) -> bool:
        """Whether the task is done now."""
        return not state.inside(self.body, self.site).any() and not state.is_held(self.body)

    def distance(self, state: SceneState) -> float:
        """What is missing, metres."""
        return float(np.linalg.norm(state.inside(self.body, self.site)))


def _kind(content: object) -> str:
    """Which of them a scene file means."""
    named = content if isinstance(content, dict) else vars(content) if isinstance(content, PlaceSuccess) else {}
    return OBJECT if {"body", "site"} & set(named) else JOINT


Success = Annotated[Annotated[JointSuccess, Tag(JOINT)] | Annotated[PlaceSuccess, Tag(OBJECT)], Discriminator(_kind)]


def credit(success: Success, state: SceneState, whole: float) -> float:
    """How much of the way to success lies behind the scene: 0 to 1, and 1 only where it holds.

    whole: `success.distance` at the reset. In hundredths, rounded down: what trembles by less is no difference to learn
    from.
    """
    if success.holds(state):
        return 1.0
    left = success.distance(state)
    return min(max(0.0, math.floor(100.0 * (1.0 - left / whole)) / 100.0), MOST_CREDIT) if whole > 0 else 0.0

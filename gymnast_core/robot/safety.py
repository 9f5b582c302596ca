"""The safety envelope: what stands between any action and the arm. Every intervention has a name.

Refusals leave the target where it is; limits let a smaller action through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from gymnast_core.config import ArmConfig, SafetyConfig
from gymnast_core.robot.arm_model import WX250S, ArmModel, arm_model

# Refusals: the arm holds.
MALFORMED = "malformed"
NOT_FINITE = "not_finite"
STALE = "stale"
NO_TARGET = "no_target"
JOINTS_INVALID = "joints_invalid"
UNREACHABLE = "unreachable"
LEAVES_ENVELOPE = "leaves_envelope"
# Limits: a smaller action is executed.
TRANSLATION_CLIPPED = "translation_clipped"
ROTATION_CLIPPED = "rotation_clipped"
GRIPPER_CLIPPED = "gripper_clipped"
WORKSPACE_CLIPPED = "workspace_clipped"
DRIFT_LIMITED = "drift_limited"
JOINT_SPEED_LIMITED = "joint_speed_limited"
SPEED_LIMITED = "speed_limited"
JOINT_DRIFT_LIMITED = "joint_drift_limited"

REFUSALS = frozenset({MALFORMED, NOT_FINITE, STALE, NO_TARGET, JOINTS_INVALID, UNREACHABLE, LEAVES_ENVELOPE})
LIMITS = frozenset(
    {
        TRANSLATION_CLIPPED,
        ROTATION_CLIPPED,
        GRIPPER_CLIPPED,
        WORKSPACE_CLIPPED,
        DRIFT_LIMITED,
        JOINT_SPEED_LIMITED,
        SPEED_LIMITED,
        JOINT_DRIFT_LIMITED,
    }
)
ROUNDING = 1e-6
"""What float32 leaves over a limit is no intervention."""
EPSILON = 1e-9


class SafetyEnvelope:
    """The limits of a station, applied one after the other by the controller; `arm`'s own joint limits below them."""

    def __init__(self, config: SafetyConfig, control_hz: float, arm: ArmModel = WX250S) -> None:
        self.config = dataclasses.replace(config, max_joint_speed=min(config.max_joint_speed, arm.joint_speed))
        self._arm = arm
        self.workspace_min = np.array(config.workspace_min, dtype=np.float64)
        self.workspace_max = np.array(config.workspace_max, dtype=np.float64)

    def admit(self, action: np.ndarray, age_s: float) -> tuple[np.ndarray | None, list[str]]:
        """The action (7,) clipped to the largest step, or None where it is refused; and the events' names."""
        try:
            values = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError):
            return None, [MALFORMED]
        if values.shape != (7,):
            return None, [MALFORMED]
        if not np.isfinite(values).all():
            return None, [NOT_FINITE]
        if not math.isfinite(age_s) or age_s > self.config.command_timeout_s:
            return None, [STALE]
        events = []
        clipped = values.copy()
        for part, low, high, event in (
            (slice(0, 3), -self.config.max_translation, self.config.max_translation, TRANSLATION_CLIPPED),
            (slice(3, 6), -self.config.max_rotation, self.config.max_rotation, ROTATION_CLIPPED),
            (slice(6, 7), 0.0, 1.0, GRIPPER_CLIPPED),
        ):
            clipped[part] = np.clip(values[part], low, high)
            if np.max(np.abs(clipped[part] - values[part])) > ROUNDING:
                events.append(event)
        return clipped, events

    def in_workspace(self, position: np.ndarray, slack: float = EPSILON) -> bool:
        """Whether a position (3,) lies in the box."""
        return bool((position >= self.workspace_min - slack).all() and (position <= self.workspace_max + slack).all())

    def box(self, previous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners the next target stays between. From a start outside the box they let the arm in step by step."""
        step = self.config.max_translation
        low = np.where(
            previous < self.workspace_min, np.minimum(self.workspace_min, previous + step), self.workspace_min
        )
        high = np.where(
            previous > self.workspace_max, np.maximum(self.workspace_max, previous - step), self.workspace_max
        )
        # Far outside on one side the other side's corner is the nearer one already.
        return np.minimum(low, high), np.maximum(low, high)

    def bound_position(
        self, wanted: np.ndarray, previous: np.ndarray, measured: np.ndarray
    ) -> tuple[np.ndarray, list[str]]:
        """The wanted target position (3,) drawn towards the measured one, then into the box; and the events' names.

        The box has the last word: a measured position that droops out of it takes no target along.
        """
        events = []
        position = wanted
        distance = float(np.linalg.norm(position - measured))
        if distance > self.config.max_drift + ROUNDING:
            position = measured + (position - measured) * (self.config.max_drift / distance)
            events.append(DRIFT_LIMITED)
        low, high = self.box(previous)
        inside = np.clip(position, low, high)
        if np.max(np.abs(inside - position)) > ROUNDING:
            events.append(WORKSPACE_CLIPPED)
        return inside, events

    def limit_joints(
        self, previous: np.ndarray, wanted: np.ndarray, measured: np.ndarray, step: float
    ) -> tuple[np.ndarray, list[str]]:
        """Joints (6,) on the straight line from the `previous` target to `wanted`, radians; and the events' names.

        They go no farther than `step`, and no joint's target runs ahead of the measured one by more than the largest
        joint drift: one that is beyond it already comes no farther away.
        """
        way = wanted - previous
        events = []
        share = 1.0
        largest = float(np.max(np.abs(way)))
        if largest > step + EPSILON:
            share = step / largest
            events.append(JOINT_SPEED_LIMITED)
        drift = self.config.max_joint_drift
        ends = np.where(way > 0, np.maximum(measured + drift, previous), np.minimum(measured - drift, previous))
        room = np.abs(ends - previous)
        if (share * np.abs(way) > room + EPSILON).any():
            share = float(np.min(room[way != 0] / np.abs(way[way != 0])))
            events.append(JOINT_DRIFT_LIMITED)
        if not events:
            return wanted, events
        return np.clip(previous + share * way, self._arm.lower, self._arm.upper), events


class DeadReckoning:
    """Where a station's arm goes as far as its commands tell, for imagination, in which nothing is measured.

    The safety envelope's limits are those that need no arm: the largest step and the workspace. What only an arm can
    meet (drift from the measured pose, joints out of reach) is not foreseen.
    """

    def __init__(self, arm: ArmConfig, safety: SafetyConfig) -> None:
        self._envelope = SafetyEnvelope(safety, arm.control_hz, arm_model(arm.model))
        self._start = np.array(arm.start_position, dtype=np.float64)

    def begin(self, position: Sequence[float] | None = None) -> np.ndarray:
        """Where a rollout's target begins, (3,) metres, base frame; None: at the station's start position."""
        return self._start.copy() if position is None else np.array(position, dtype=np.float64)

    def follow(self, position: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """One commanded Bridge action (7,) on the target `position` (3,).

        Returns the action that remains (7,) (no motion, and NaN for the gripper, where it is refused), the target after
        it (3,), and the names of the envelope's interventions.
        """
        admitted, events = self._envelope.admit(action, 0.0)
        if admitted is None:
            return np.array([0.0] * 6 + [math.nan]), position, events
        target = position + admitted[:3]
        low, high = self._envelope.box(position)
        inside = np.clip(target, low, high)
        if np.max(np.abs(inside - target)) > ROUNDING:
            events.append(WORKSPACE_CLIPPED)
            admitted[:3] = inside - position
        return admitted, inside, events

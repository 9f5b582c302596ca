"""Correction of gravity's droop: motors with a proportional gain alone stand a little below their goal.

An offset for each joint grows by a part of what the arm was short of its last target, one control step after the other,
so that the arm ends where the deltas say. It is bounded, it does not grow where a joint is blocked, and a hold forgets
it.
"""

from __future__ import annotations

import numpy as np

from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_UPPER

GAIN = 0.3
"""Of the error, at each control step: half of it is gone after two steps, and nothing swings."""
LARGEST = 0.05
"""Radians; the WidowX's shoulder droops by a third of it with the arm stretched out."""
BLOCKED = 0.1
"""Radians: a joint that is farther from its target moves, or is blocked; that is no droop."""


class DroopCorrection:
    """One arm's. enabled: otherwise commands are the targets."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._offset = np.zeros(6)

    def look(self, target: np.ndarray | None, measured: np.ndarray | None) -> None:
        """One control step has passed: it was sent to `target` (6,), and is at `measured` (6,), radians."""
        if not self._enabled or target is None or measured is None:
            return
        error = target - measured
        grown = np.clip(self._offset + GAIN * error, -LARGEST, LARGEST)
        self._offset = np.where(np.abs(error) < BLOCKED, grown, self._offset)

    def command(self, target: np.ndarray) -> np.ndarray:
        """What to send for a target (6,), radians, within the joint limits."""
        return np.clip(target + self._offset, JOINT_LOWER, JOINT_UPPER) if self._offset.any() else target

    def forget(self) -> None:
        """The arm is held where it is, or goes somewhere else."""
        self._offset = np.zeros(6)

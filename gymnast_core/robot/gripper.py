"""The gripper: opening from 0 (closed) to 1 (open), and the PWM that drives an X-Series gripper there.

That gripper's XL430 has no current sensor and its vendor's default mode is PWM, so a position is reached by a small
loop around the measured finger: proportional within a few millimetres, full PWM outside. A grasp keeps a lower,
constant PWM: the fingers stand still on the object, and full PWM for minutes overheats the motor.
"""

from __future__ import annotations

import math

from gymnast_core.robot.arm_model import WX250S

FINGER_CLOSED, FINGER_OPEN = WX250S.gripper.closed, WX250S.gripper.open
"""Left finger joint of the arm of Bridge data, closed and open, metres."""
MAX_PWM = 350.0
"""The vendor's upper limit."""
GRASP_PWM = 220.0
"""Kept while the fingers are stopped by an object."""
PROPORTIONAL_RANGE = 0.0033
"""Distance from the target within which PWM is proportional to it, metres (Bridge: gain 300 a metre)."""
TOLERANCE = 0.0008
"""Close enough, metres."""
STALL_SECONDS = 0.5
STALL_DISTANCE = 0.0003


def opening_from_finger(finger: float, closed: float = FINGER_CLOSED, fully_open: float = FINGER_OPEN) -> float:
    """Opening in [0, 1] from the left finger joint (metres)."""
    return min(1.0, max(0.0, (finger - closed) / (fully_open - closed)))


def finger_from_opening(opening: float, closed: float = FINGER_CLOSED, fully_open: float = FINGER_OPEN) -> float:
    """Left finger joint (metres) of an opening in [0, 1]."""
    return closed + min(1.0, max(0.0, opening)) * (fully_open - closed)


class GripperDrive:
    """Turns a wanted opening and the measured finger into PWM, called 20 or more times a second."""

    def __init__(self, closed: float = FINGER_CLOSED, fully_open: float = FINGER_OPEN) -> None:
        self._closed = closed
        self._open = fully_open
        self._target: float | None = None
        self._still_since = 0.0
        self._still_at = math.inf

    def set_target(self, opening: float) -> None:
        """Go to an opening in [0, 1]."""
        target = finger_from_opening(opening, self._closed, self._open)
        if self._target is None or abs(target - self._target) > TOLERANCE:
            self._still_at = math.inf  # a new motion starts with full PWM
        self._target = target

    def pwm(self, finger: float, now: float) -> float:
        """PWM in [-350, 350], positive opens. `finger`: measured left finger (m); `now`: any clock in seconds."""
        if self._target is None or not math.isfinite(finger):
            return 0.0
        error = self._target - finger
        if abs(error) < TOLERANCE:
            return 0.0
        if abs(finger - self._still_at) > STALL_DISTANCE:
            self._still_at, self._still_since = finger, now
        limit = GRASP_PWM if self._stalled(now) else MAX_PWM
        return max(-limit, min(limit, error / PROPORTIONAL_RANGE * MAX_PWM))

    def rest(self, finger: float, now: float) -> float:
        """The PWM to leave the motor with when nobody looks after it: its grasp, or none, and a motion ends here."""
        pwm = self.pwm(finger, now)
        if self._stalled(now):
            return pwm
        self._target = None
        return 0.0

    def _stalled(self, now: float) -> bool:
        return math.isfinite(self._still_at) and now - self._still_since >= STALL_SECONDS

"""What goes wrong with an arm under command, told from its joint states: silence, overload, a driver gone deaf, a joint
without torque; and when so much goes wrong that a person has to look."""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass

import numpy as np

from gymnast_core.robot.arm_model import WX250S, ArmModel

FRESH_S = 0.5
"""Joint states older than this say nothing about where the arm is."""
HOLD_FRESH_S = 0.2
"""A pose older than this is none to hold at: the arm may have moved on since."""
EFFORT_S = 0.3
"""An effort must last this long: starting a motion takes more for a moment."""
JAM_S = 1.0
"""Effort that stays over the limit this long after the arm was held at its measured pose is no push of ours."""
ARRIVED = 0.05
"""Radians from its target within which a joint is there."""
DEAF_DISTANCE = 0.1
"""Radians: a motor with torque that stands so far from its target pushes with about half its stall current."""
DEAF_S = 0.8
DEAF_MOTION = 0.02
LIMP_DISTANCE = 0.25
LIMP_PROGRESS = 0.05
LIMP_S = 1.0
"""A joint this far from its target (rad), that neither pushes nor comes nearer for so long, has lost its torque.
Longer than DEAF_S: a deaf driver is named first."""


@dataclass(frozen=True)
class Fault:
    """kind: "silent", "overload", "jammed", "deaf" or "limp"; text: one line for people."""

    kind: str
    text: str


class ArmGuard:
    """Fed with what was measured and what was sent; times are any one clock's seconds. Keeps no clock of its own."""

    def __init__(self, max_effort_ma: float, arm: ArmModel = WX250S) -> None:
        self._arm = arm
        self._unit = arm.effort.unit
        self._limits = arm.effort_limits(max_effort_ma)
        self._joints: np.ndarray | None = None
        self._effort: np.ndarray | None = None
        self._measured_at = -math.inf
        self._failed_reads = ""
        self._target: np.ndarray | None = None
        self._sent_at = -math.inf
        self._over_since: float | None = None
        self._relaxed_at: float | None = None
        self._rest_effort = np.zeros(6)
        self._far_since: float | None = None
        self._far_from = np.zeros(6)
        self._idle_since: float | None = None
        self._idle_from = np.zeros(6)
        self._idle = np.zeros(6, dtype=bool)

    def measured(self, joints: np.ndarray, effort: np.ndarray | None, now: float) -> None:
        """A joint state: joints (6,) rad; effort (6,) in the arm's unit, None where the driver reports none."""
        self._joints, self._effort, self._measured_at = joints, effort, now
        self._failed_reads = ""

    def reads_failed(self, what: str) -> None:
        """No joint state is believed since the last one measured, and why."""
        self._failed_reads = what

    def sent(self, target: np.ndarray, now: float) -> None:
        """A joint command (6,) rad went out."""
        self._target, self._sent_at = target, now

    def relaxed(self, now: float) -> None:
        """The arm was commanded to stay at its measured pose: what effort is left is not from pushing on."""
        if self._relaxed_at is None:
            self._relaxed_at = now
        self._over_since = self._far_since = self._idle_since = None

    def fresh(self, now: float, within: float = FRESH_S) -> bool:
        """Whether the arm's pose was known `within` seconds ago."""
        return now - self._measured_at <= within

    def overloaded(self) -> np.ndarray:
        """(6,) bool: joints over their limit now."""
        return np.zeros(6, dtype=bool) if self._effort is None else np.abs(self._effort) > self._limits

    def load(self, effort: np.ndarray) -> np.ndarray:
        """(6,): what share of their limits these efforts (6,) are; 1 is the limit."""
        return np.abs(effort) / self._limits

    @property
    def letting_go(self) -> bool:
        """The arm was commanded to stay, and its effort has not fallen since: pushing on would hide a jam."""
        return self._relaxed_at is not None and bool(self.overloaded().any())

    def check(self, now: float) -> Fault | None:
        """The fault there is now, None when all is well."""
        if not self.fresh(now):
            reads = f" ({self._failed_reads})" if self._failed_reads else ""
            return Fault("silent", f"no joint states for {now - self._measured_at:.2f} s{reads}")
        return self._check_effort(now) or self._check_following(now) or self._check_torque(now)

    def _check_effort(self, now: float) -> Fault | None:
        over = self.overloaded()
        if not over.any():
            self._over_since = self._relaxed_at = None
            return None
        assert self._effort is not None
        joint = int(np.argmax(np.abs(self._effort) / self._limits))
        found, allowed = self._effort[joint], self._limits[joint]
        text = f"effort of {self._arm.names[joint]} is {found:.0f} {self._unit}, allowed are {allowed:.0f}"
        if self._relaxed_at is not None and now - self._relaxed_at > JAM_S:
            return Fault("jammed", f"{text}, also while holding still")
        self._over_since = self._over_since or now
        return Fault("overload", text) if now - self._over_since > EFFORT_S else None

    def _check_following(self, now: float) -> Fault | None:
        """Commands without motion and without effort: a driver whose bus write failed once drops all later ones.

        A blocked arm stands still far from its target, too, but there every joint pushes. The effort of one that does
        not is small, or what it was at rest.
        """
        if self._target is None or self._joints is None or self._effort is None:
            return None
        distance = np.abs(self._target - self._joints)
        if float(np.max(distance)) < ARRIVED:
            self._rest_effort = self._effort.copy()
        more = np.abs(self._effort - self._rest_effort)
        quiet = (distance > DEAF_DISTANCE) & (np.minimum(np.abs(self._effort), more) < self._arm.effort.deaf)
        moved = float(np.max(np.abs(self._joints - self._far_from))) > DEAF_MOTION
        if not quiet.any() or now - self._sent_at > DEAF_S:
            self._far_since = None
        elif self._far_since is None or moved:
            self._far_since, self._far_from = now, self._joints.copy()
        elif now - self._far_since > DEAF_S:
            return Fault("deaf", "the arm does not follow its commands; restart the driver, check the motors' torque")
        return None

    def _check_torque(self, now: float) -> Fault | None:
        """A joint that sinks or stands away from its target and does nothing about it."""
        if self._target is None or self._joints is None or self._effort is None:
            return None
        error = self._target - self._joints
        idle = (np.abs(error) > LIMP_DISTANCE) & (np.abs(self._effort) < self._arm.effort.limp)
        if self._idle_since is None or not (self._idle & idle).any():
            self._idle_since, self._idle_from, self._idle = now, self._joints.copy(), idle
            return None
        progress = (self._joints - self._idle_from) * np.sign(error)
        self._idle = self._idle & idle & (progress < LIMP_PROGRESS)
        if self._idle.any() and now - self._idle_since > LIMP_S:
            joint = int(np.argmax(np.abs(error) * self._idle))
            return Fault(
                "limp",
                f"{self._arm.names[joint]} is {abs(error[joint]):.2f} rad from its target and does not push; "
                "its motor has no torque: support the arm, then reboot the motor",
            )
        return None


class FaultWindow:
    """Counts faults; too many within a time need a person. All times are seconds of one clock."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self._times: collections.deque[float] = collections.deque()

    def add(self, now: float) -> bool:
        """One more fault; whether that makes too many."""
        self._times.append(now)
        return self.count(now) >= self.limit

    def count(self, now: float) -> int:
        """Faults within the window."""
        while self._times and self._times[0] < now - self.window_s:
            self._times.popleft()
        return len(self._times)

    def clear(self) -> None:
        """A person has looked."""
        self._times.clear()

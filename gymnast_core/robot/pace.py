"""How fast the target may move, over time: the same action sent ten times as often moves the arm no faster.

Translation and rotation have a budget that refills with time, at the largest step per control period. It holds two
steps, so an action that comes late and one that comes early after it lose nothing. The joints have a window: within
any control period they move no farther than the largest joint speed allows in one.
"""

from __future__ import annotations

import collections

import numpy as np

from gymnast_core.config import SafetyConfig

BURST_STEPS = 2.0
"""Largest steps that may follow each other at once after a pause."""
ROUNDING_S = 1e-6
"""Actions that are one period apart by the clock's rounding are one period apart."""


class Budget:
    """A quantity that refills at `rate` per second up to `capacity`. Times are one steady clock's seconds."""

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at: float | None = None

    def level(self, now: float) -> float:
        """What may be spent now."""
        if self._at is not None:
            self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._level

    def spend(self, amount: float, now: float) -> None:
        """Take `amount` from it; never below nothing."""
        self._level = max(0.0, self.level(now) - amount)


class Pace:
    """What the target's motion has left of its budget. Keeps no clock of its own: `now` is steady, in seconds."""

    def __init__(self, config: SafetyConfig, control_hz: float) -> None:
        steps = ((slice(0, 3), config.max_translation), (slice(3, 6), config.max_rotation))
        self._budgets = [(part, Budget(step * control_hz, BURST_STEPS * step)) for part, step in steps]
        self._joint_step = config.max_joint_speed / control_hz
        self._window = 1.0 / control_hz - ROUNDING_S
        self._joint_steps: collections.deque[tuple[float, float]] = collections.deque()

    def share(self, delta: np.ndarray, now: float) -> float:
        """The fraction, 0 to 1, of a Bridge delta (6,) that the budgets allow."""
        shares = [1.0]
        for part, budget in self._budgets:
            wanted = float(np.max(np.abs(delta[part])))
            if wanted > 0.0:
                shares.append(budget.level(now) / wanted)
        return min(shares)

    def joint_step(self, now: float) -> float:
        """Radians that the joint with the largest motion may move now."""
        while self._joint_steps and self._joint_steps[0][0] <= now - self._window:
            self._joint_steps.popleft()
        return max(0.0, self._joint_step - sum(step for _, step in self._joint_steps))

    def moved(self, delta: np.ndarray, joints: np.ndarray, now: float) -> None:
        """The target moved by the Bridge delta (6,) and the joints (6,), radians."""
        for part, budget in self._budgets:
            budget.spend(float(np.max(np.abs(delta[part]))), now)
        self._joint_steps.append((now, float(np.max(np.abs(joints)))))

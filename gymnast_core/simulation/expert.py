"""Policies that know or need nothing: a scripted expert with access to the simulator's state, and random motion.

They make the data of the mini models. The expert sees what no policy may: where the handle is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.simulation.environment import StationEnvironment

ACTION_DIM = 7
BEHIND_BAR = -0.012
"""End effector y relative to the handle's bar when the far finger hangs behind it, metres."""
BEFORE_BAR = -0.062
"""The same with both fingers in front of the bar, to push it."""
TRAVEL_HEIGHT = 0.180
GRASP_HEIGHT = 0.080
DONE_OPEN = 0.095
DONE_CLOSED = 0.006
MAX_STEP = 0.045
TOLERANCE = 0.010


class ExpertPolicy:
    """Opens and closes the drawer from the simulator's state; implements `Policy`.

    noise: standard deviation of what is added to every commanded translation, metres.
    slip: chance per step that a burst of three steps goes in a random direction instead, from which it recovers.
    miss: chance per episode that it aims beside the handle by 3 to 6 cm, so that it fails the way policies fail.
    """

    chunk_length = 1

    def __init__(
        self, environment: StationEnvironment, noise: float = 0.0, slip: float = 0.0, miss: float = 0.0, seed: int = 0
    ) -> None:
        self._environment = environment
        self._noise, self._slip, self._miss = noise, slip, miss
        self._random = np.random.default_rng(seed)
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Start a new episode."""
        self._random = np.random.default_rng([seed, 7])
        self._lowered = False
        self._burst = 0
        self._direction = np.zeros(3)
        self._aim = np.zeros(2)
        if self._random.random() < self._miss:
            angle = self._random.uniform(0, 2 * np.pi)
            self._aim = self._random.uniform(0.03, 0.06) * np.array([np.cos(angle), np.sin(angle)])

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """One action per rollout (N, 1, 7); frames are not looked at."""
        return np.stack([self._act(row, instruction) for row, instruction in enumerate(instructions)])[:, None]

    def _act(self, row: int, instruction: str) -> np.ndarray:
        station = self._environment.station(row)
        handle = station.site_position("handle")
        here = station.end_effector()[:3, 3]
        opening = "open" in instruction
        if not opening and "close" not in instruction:
            raise ConfigError(f"the scripted expert knows how to open and close, not '{instruction}'")
        drawer = station.drawer_opening
        if (opening and drawer > DONE_OPEN) or (not opening and drawer < DONE_CLOSED):
            return np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)
        side = BEHIND_BAR if opening else BEFORE_BAR
        above = np.array([handle[0] + self._aim[0], handle[1] + side + self._aim[1], TRAVEL_HEIGHT])
        near = np.abs(here[:2] - above[:2]).max() < TOLERANCE
        if self._lowered and here[2] > TRAVEL_HEIGHT - 0.03:
            self._lowered = False
        if near and here[2] > GRASP_HEIGHT + 0.015:
            wanted = np.array([*above[:2], GRASP_HEIGHT])
        elif near or self._lowered:
            self._lowered = True
            wanted = np.array([above[0], here[1] + (-MAX_STEP if opening else MAX_STEP), GRASP_HEIGHT])
        else:
            wanted = above
        delta = np.clip(wanted - here, -MAX_STEP, MAX_STEP)
        if self._burst == 0 and self._random.random() < self._slip:
            self._burst = 3
            self._direction = self._random.uniform(-0.03, 0.03, 3)
        if self._burst:
            self._burst -= 1
            delta = self._direction
        delta = delta + self._random.normal(0.0, self._noise, 3)
        return np.array([*np.clip(delta, -0.05, 0.05), 0.0, 0.0, 0.0, 1.0], dtype=np.float32)


class RandomPolicy:
    """Smooth random motion with small rotations and gripper toggles, so that a world model sees what actions do."""

    chunk_length = 1

    def __init__(self, seed: int = 0, scale: float = 0.025) -> None:
        self._scale = scale
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Start a new episode."""
        self._random = np.random.default_rng([seed, 11])
        self._velocity = np.zeros(6)
        self._gripper = 1.0

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """One action for all rollouts (N, 1, 7)."""
        fresh = self._random.normal(0.0, 1.0, 6) * np.array([self._scale] * 3 + [0.05] * 3)
        self._velocity = 0.75 * self._velocity + 0.66 * fresh
        if self._random.random() < 0.08:
            self._gripper = 1.0 - self._gripper
        limit = np.array([0.05] * 3 + [0.25] * 3)
        action = np.append(np.clip(self._velocity, -limit, limit), self._gripper).astype(np.float32)
        return np.tile(action, (len(instructions), 1, 1))


class MixedPolicy:
    """Expert and random motion in turn, switching at random, so that play comes near the handle and away again."""

    chunk_length = 1

    def __init__(self, expert: ExpertPolicy, random: RandomPolicy) -> None:
        self._expert, self._random_policy = expert, random
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Start a new episode."""
        self._expert.begin(seed)
        self._random_policy.begin(seed)
        self._random = np.random.default_rng([seed, 13])
        self._wild = bool(self._random.random() < 0.5)

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """One action per rollout (N, 1, 7)."""
        if self._random.random() < 0.15:
            self._wild = not self._wild
        return (self._random_policy if self._wild else self._expert).act(frames, instructions)

"""Policies that know or need nothing: a scripted expert with access to the simulator's state, and random motion.

They make the data of the mini models. The expert sees what no policy may: where its object is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.expert_plans import MAX_STEP, MAX_TURN, DrawerPlan, PlacePlan, Plan
from gymnast_core.simulation.simulator import SimulatedStation
from gymnast_core.simulation.success import PlaceSuccess

BURST = 3
"""Steps of a slip."""


class ExpertPolicy:
    """Does a scene's tasks from the simulator's state (`expert_plans.py`); implements `Policy`.

    noise: standard deviation of what is added to every commanded translation, metres.
    slip: chance per step that a burst of three steps goes in a random direction instead, from which it recovers.
    miss: chance per episode that it aims beside its object by 3 to 6 cm, so that it fails the way policies fail.
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
        self._plans: dict[int, Plan] = {}
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
        if row not in self._plans:
            self._plans[row] = _plan_for(station, self._environment.task(row), instruction)
        wanted = self._plans[row].next(station, self._aim)
        if wanted is None:
            return np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)
        delta = np.clip(wanted.position - station.end_effector()[:3, 3], -MAX_STEP, MAX_STEP)
        if self._burst == 0 and self._random.random() < self._slip:
            self._burst = BURST
            self._direction = self._random.uniform(-0.03, 0.03, 3)
        if self._burst:
            self._burst -= 1
            delta = self._direction
        delta = delta + self._random.normal(0.0, self._noise, 3)
        turn = np.clip(wanted.turn, -MAX_TURN, MAX_TURN)
        return np.array([*np.clip(delta, -0.05, 0.05), 0.0, 0.0, turn, wanted.gripper], dtype=np.float32)


def _plan_for(station: SimulatedStation, task: str, instruction: str) -> Plan:
    """Raises: ConfigError for a task that no plan is written for."""
    success = station.scene.task(task).success
    if isinstance(success, PlaceSuccess):
        return PlacePlan(success)
    if success.joint == station.scene.drawer_joint and ("open" in instruction or "close" in instruction):
        return DrawerPlan("open" in instruction)
    raise ConfigError(
        f"the scripted expert can open and close a drawer and put an object into a place, not '{instruction}'"
    )


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

"""The world model as an `Environment`: the trainer cannot tell it from a station."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.protocols import Start, StepResult
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.world_model.checkpoint import LoadedWorldModel, load_world_model
from gymnast_core.world_model.config import SamplingConfig
from gymnast_core.world_model.imagine import Imagination
from gymnast_core.world_model.meters import doubts, of_rollout, read_meters


class WorldModelEnvironment:
    """Imagined rollouts side by side. There is no truth in here: `success` is NaN, a judge decides."""

    def __init__(
        self,
        loaded: LoadedWorldModel,
        *,
        max_rollouts: int = 128,
        sampling: SamplingConfig | None = None,
        arm: DeadReckoning | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        """sampling: replaces the checkpoint's own. max_rollouts: bounds memory.

        limits: of meters of hallucination, by name, above which a rollout is doubted (`meters.py`).

        arm: whose safety envelope commanded actions pass, because a world model learned from what an arm did, not from
        what it was commanded; without one they are imagined as they are.
        """
        if max_rollouts < 1:
            raise ConfigError(f"world model: max_rollouts is {max_rollouts}, must be at least 1")
        self.loaded = loaded
        self._max_rollouts = max_rollouts
        self._arm = arm
        self._limits = dict(limits or {})
        self._positions: list[np.ndarray] = []
        self._imagination = Imagination(loaded, sampling)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        max_rollouts: int = 128,
        sampling: SamplingConfig | None = None,
        autoencoder: str = "",
        arm: DeadReckoning | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> WorldModelEnvironment:
        """From a world-model checkpoint, see `load_world_model`; CheckpointError if it does not load."""
        loaded = load_world_model(folder, device, autoencoder, dtype=None)
        return cls(loaded, max_rollouts=max_rollouts, sampling=sampling, arm=arm, limits=limits)

    @property
    def max_rollouts(self) -> int:
        return self._max_rollouts

    @property
    def image_size(self) -> int:
        """Side in pixels of the frames it returns."""
        return self.loaded.autoencoder.image_size

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        """Begin at the starts' frames, any size, squashed to the model's; returns them (N, S, S, 3).

        Rollouts with the same frame share its encoding and its pass through the network. Rollout i's noise depends on
        starts[i].seed alone. Raises DataError for a start without a readable frame.
        """
        if not 1 <= len(starts) <= self._max_rollouts:
            raise ConfigError(f"world model: {len(starts)} rollouts asked for, must be 1 to {self._max_rollouts}")
        frames = []
        for i, start in enumerate(starts):
            if start.frame is None:
                raise DataError(f"world model: start {i} has no frame; imagination begins from a picture")
            frames.append(start.frame)
        if self._arm is not None:
            self._positions = [self._arm.begin(start.position) for start in starts]
        self._imagination.start(frames, [start.seed for start in starts])
        return self._imagination.decode([0])[:, 0]

    def step(self, actions: np.ndarray) -> StepResult:
        """Imagine one frame for each of the chunk's actions (N, K, 7); only the last one is decoded.

        Raises: DataError for another shape, and for a value that is not finite.
        """
        actions = np.asarray(actions, dtype=np.float32)
        n = self._imagination.size
        if actions.ndim != 3 or actions.shape[0] != n or actions.shape[1] < 1 or actions.shape[2] != 7:
            raise DataError(f"world model: actions are {actions.shape}, must be ({n}, K, 7) with K at least 1")
        executed, events, changed = self._pass_envelope(actions)
        for k in range(executed.shape[1]):
            self._imagination.step(executed[:, k])
        frames = self._imagination.decode([len(self._imagination.latents) - 1])[:, 0]
        return StepResult(frames, executed, np.full(actions.shape[:2], np.nan, np.float32), events, changed)

    def _pass_envelope(self, actions: np.ndarray) -> tuple[np.ndarray, list[list[tuple[str, ...]]], np.ndarray]:
        """Actions (N, K, 7) as the arm would do them, the interventions' names for each of them, and which (N, K) they
        changed."""
        changed = np.zeros(actions.shape[:2], dtype=bool)
        if self._arm is None:
            return actions, [[()] * actions.shape[1] for _ in actions], changed
        executed = np.empty_like(actions)
        events: list[list[tuple[str, ...]]] = []
        for row, chunk in enumerate(actions):
            happened: list[tuple[str, ...]] = []
            for step, action in enumerate(chunk):
                executed[row, step], self._positions[row], names = self._arm.follow(self._positions[row], action)
                happened.append(tuple(names))
                changed[row, step] = bool(names)
            events.append(happened)
        return executed, events, changed

    def doubts(self) -> list[str]:
        """For each rollout why it should not be believed, as far as it has gone; "" where it may be."""
        if not self._limits or len(self._imagination.latents) < 2:
            return [""] * self._imagination.size
        return doubts(read_meters(self._imagination), self._limits)

    def meters(self, rows: Sequence[int]) -> list[dict[str, float]]:
        """The meters of hallucination of these rollouts, as far as they have gone; they cost a decoding of each."""
        if not rows or len(self._imagination.latents) < 2:
            return [{} for _ in rows]
        found = read_meters(self._imagination, rows)
        return [{name: of_rollout(readings[place]) for name, readings in found.items()} for place in range(len(rows))]

    @property
    def imagination(self) -> Imagination:
        """The rollouts themselves, with their latents."""
        return self._imagination

    def video(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Frames (N, len(indices), S, S, 3) since the reset; negative indices count from the end."""
        count = len(self._imagination.latents)
        if count == 0:
            raise ConfigError("world model: video before reset")
        chosen = list(range(count)) if indices is None else [i + count if i < 0 else i for i in indices]
        return self._imagination.decode(chosen)

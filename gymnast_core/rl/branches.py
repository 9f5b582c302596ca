"""Branches: practice that begins in states which imagination has reached, not in camera frames alone.

Short rollouts from states all along an episode teach more, and are believed for longer, than whole ones from its first
frame (VLA-MBPO, arXiv 2603.20607; WoVR, arXiv 2602.13977). A state is taken as the picture that the policy saw there,
with the end effector where the imagined actions have brought it.

A branch never goes farther from a real frame than a whole rollout would: its start and its own steps together keep
within the horizon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gymnast_core.errors import DataError
from gymnast_core.protocols import Start
from gymnast_core.rollout.rollout import ACTION_DIM, Rollout
from gymnast_core.seeds import derive_seed

CAPACITY = 256
"""States that are kept; the oldest go first."""


class BranchPool:
    """States along earlier rollouts, from which branches of `steps` imagined steps begin.

    horizon: steps of a whole rollout. seed: decides which states are kept and drawn.
    """

    def __init__(self, steps: int, horizon: int, seed: int) -> None:
        self.steps = min(steps, horizon)
        self._deepest = horizon - self.steps
        self._seed = seed
        self._starts: list[Start] = []

    def __len__(self) -> int:
        return len(self._starts)

    def states_of(self, rollouts: Sequence[Rollout], batch: int) -> list[Start]:
        """One state of each rollout, while it was still acting; none of a rollout that has no such state."""
        generator = np.random.default_rng(derive_seed(self._seed, "states", batch))
        found = []
        for rollout in rollouts:
            draw = float(generator.random())  # drawn for each rollout, so that one changes nothing for the next
            chunks = self._usable_chunks(rollout)
            if chunks:
                found.append(_state(rollout, chunks[int(draw * len(chunks))]))
        return found

    def add(self, starts: Sequence[Start]) -> None:
        """Keep these states."""
        self._starts = [*self._starts, *starts][-CAPACITY:]

    def draw(self, batch: int, count: int) -> list[Start]:
        """`count` states, each as likely as any other; fewer where the pool holds fewer."""
        generator = np.random.default_rng(derive_seed(self._seed, "branches", batch))
        chosen = generator.permutation(len(self._starts))[:count]
        return [self._starts[index] for index in chosen]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "starts": [
                {**dataclasses.asdict(start), "frame": torch.from_numpy(np.asarray(start.frame))}
                for start in self._starts
            ]
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises: DataError when it is not the state of a pool."""
        try:
            self._starts = [Start(**{**entry, "frame": entry["frame"].numpy()}) for entry in state["starts"]]
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(f"the checkpoint's branches are damaged ({type(error).__name__}: {error})") from error

    def _usable_chunks(self, rollout: Rollout) -> list[int]:
        """Chunks, but for the first, before which a rollout was still acting and near enough to its real frame."""
        if rollout.start.frame is None or rollout.start.position is None:
            return []
        length = rollout.mask.shape[1] // ACTION_DIM
        alive = np.flatnonzero(rollout.mask.any(axis=1)).tolist()
        return [chunk for chunk in alive if chunk and chunk * length <= self._deepest]


def _state(rollout: Rollout, chunk: int) -> Start:
    """What a rollout had come to before a chunk, as a start."""
    before = rollout.executed[: chunk * (rollout.mask.shape[1] // ACTION_DIM), :3]
    position = np.asarray(rollout.start.position, dtype=np.float64) + before.sum(axis=0, dtype=np.float64)
    x, y, z = position.tolist()
    return dataclasses.replace(rollout.start, frame=rollout.frames[chunk], position=(x, y, z))

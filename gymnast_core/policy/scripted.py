"""A policy that looks at nothing: recorded actions, played open loop. For reset motions, replays and comparisons."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from gymnast_core.data.episode import check_actions
from gymnast_core.data.worldgym import read_actions
from gymnast_core.errors import DataError
from gymnast_core.policy.dataset import chunk_at


class ScriptedPolicy:
    """Plays actions (T, 7) chunk by chunk, the same for every row; past the end the arm stays, the gripper as it was.

    Each `act` is one chunk further; `restart` goes back to the beginning, which a new episode needs.

    Raises: DataError when there is no action, one is not finite, or the chunk length is not positive.
    """

    def __init__(self, actions: np.ndarray, chunk_length: int = 5) -> None:
        self._actions = check_actions(actions)
        if not len(self._actions):
            raise DataError("actions: found none, needed at least one step")
        if chunk_length < 1:
            raise DataError(f"chunk_length: found {chunk_length}, needed at least 1")
        self._chunk_length = chunk_length
        self._step = 0

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk."""
        return self._chunk_length

    @property
    def finished(self) -> bool:
        """Whether every action has been given out."""
        return self._step >= len(self._actions)

    def restart(self) -> None:
        """Begin again."""
        self._step = 0

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """The next chunk, (N, K, 7) float32."""
        chunk = chunk_at(self._actions, self._step, self._chunk_length)
        self._step += self._chunk_length
        return np.repeat(chunk[None], len(frames), axis=0).astype(np.float32)


def load_script(path: str | os.PathLike[str], chunk_length: int = 5) -> ScriptedPolicy:
    """A policy that plays a file of actions. Raises: DataError, see `read_actions`."""
    return ScriptedPolicy(read_actions(path), chunk_length)

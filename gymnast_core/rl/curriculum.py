"""Which starts a batch of groups begins at: evenly, or more often where success and failure are mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gymnast_core.errors import DataError
from gymnast_core.protocols import Start
from gymnast_core.rollout.mixture import Part, counts_of
from gymnast_core.seeds import derive_seed


class StartSampler:
    """Chooses the starts of each batch of groups, by seed: tasks in turn, or by how much they can teach.

    curriculum: "uniform" takes every start equally often; "variance" weighs a start by p (1 - p) of its success rate so
    far (with one imagined success and one failure as prior), which is largest where a group is most likely to differ.
    parts: of a mixture, one after another in `starts`; each gets its share of every batch (`counts_of`), and the
    above holds within it.
    """

    def __init__(
        self, starts: Sequence[Start], seed: int, curriculum: str = "uniform", parts: Sequence[Part] = ()
    ) -> None:
        if not starts:
            raise DataError("no start to roll out from; name a folder of start frames or a task")
        self.starts = list(starts)
        self._parts = list(parts)
        self._seed = seed
        self._curriculum = curriculum
        self._identity = [_digest(start) for start in self.starts]
        self._tried = np.zeros(len(self.starts))
        self._reward = np.zeros(len(self.starts))

    def draw(self, batch: int, count: int) -> list[int]:
        """Indices of the `count` starts of one batch; instructions are mixed evenly, in each part of a mixture."""
        generator = np.random.default_rng(derive_seed(self._seed, "starts", batch))
        if not self._parts:
            return self._draw_among(np.arange(len(self.starts)), count, generator)
        drawn: list[int] = []
        first = 0
        for part, wanted in zip(self._parts, counts_of(self._parts, count, self._seed, batch)):
            drawn += self._draw_among(np.arange(first, first + part.size), wanted, generator)
            first += part.size
        return [drawn[place] for place in generator.permutation(len(drawn))]  # each process gets some of every part

    def _draw_among(self, among: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
        """`count` of some starts (n,), by index."""
        order: list[int] = []
        while len(order) < count:
            keys = generator.exponential(size=len(among)) / self.weights()[among]
            by_task: dict[str, list[int]] = {}
            for index in among[np.argsort(keys, kind="stable")]:
                by_task.setdefault(self.starts[index].instruction, []).append(int(index))
            queues = list(by_task.values())
            generator.shuffle(queues)
            while any(queues):
                order.extend(queue.pop(0) for queue in queues if queue)
        return order[:count]

    def weights(self) -> np.ndarray:
        """Weight of each start, (n,) positive, mean 1."""
        if self._curriculum == "uniform":
            return np.ones(len(self.starts))
        rate = (self._reward + 1.0) / (self._tried + 2.0)
        weight = np.maximum(rate * (1.0 - rate), 0.02)
        return weight / weight.mean()

    def record(self, index: int, rewards: np.ndarray) -> None:
        """Remember the rewards of a group that began at start `index`."""
        self._tried[index] += len(rewards)
        self._reward[index] += float(np.clip(rewards, 0.0, 1.0).sum())

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"starts": self._identity, "tried": self._tried.tolist(), "reward": self._reward.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises: DataError when the checkpoint knew other starts."""
        then, now = state["starts"], self._identity
        if then != now:
            other = next((i for i, pair in enumerate(zip(then, now)) if pair[0] != pair[1]), min(len(then), len(now)))
            raise DataError(
                f"the run to resume began at {len(then)} starts, now there are {len(now)}, and start {other} is not "
                "the same (instruction, frame, position or reset); use the same starts or another run folder"
            )
        self._tried = np.array(state["tried"], dtype=np.float64)
        self._reward = np.array(state["reward"], dtype=np.float64)


def _digest(start: Start) -> str:
    """What a start is, in a few characters."""
    digest = hashlib.sha256(f"{start.instruction}\n{start.task}\n".encode())
    if start.frame is None:
        digest.update(str(start.seed).encode())
    else:
        digest.update(str(start.frame.shape).encode() + np.ascontiguousarray(start.frame).tobytes())
        if start.position is not None:
            digest.update(np.array(start.position, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]

"""The end of practice: what it taught stays, and what it cost the station's other tasks is taken back.

Imagination hardly shows what practice of one task costs another: where the world model is wrong, the other task goes on
succeeding there and fails on the robot. Logged episodes of the other tasks hold the pictures that count. On them the
policy learns to act as it did before practice, and on what its successes in imagination saw, to act as practice taught
it. Both teachers are the policy itself, so nobody judges anything and the robot does not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gymnast_core.errors import DataError
from gymnast_core.protocols import TrainablePolicy
from gymnast_core.ranks import Ranks
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.weights import TrainedWeights
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.seeds import derive_seed

NEAR_GREEDY = 0.001
"""Temperature at which a sampled action is the most likely one."""
EACH = 32
"""Pictures of either kind in a step."""


@dataclass(frozen=True)
class Views:
    """What a policy saw: frames (N, S, S, 3) uint8, and the instruction beside each."""

    frames: np.ndarray
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.instructions)


def views_of_successes(rollouts: Sequence[Rollout]) -> Views | None:
    """What the policy saw at each of its calls in rollouts that succeeded; None where there are none."""
    seen = [
        (rollout.frames[chunk], rollout.start.instruction)
        for rollout in rollouts
        if rollout.completed == 1.0
        for chunk in np.flatnonzero(rollout.mask.any(axis=1))
    ]
    return Views(np.stack([frame for frame, _ in seen]), tuple(words for _, words in seen)) if seen else None


@dataclass(frozen=True)
class Kept:
    """Share of a policy's numbers, 0 to 1, that are those of before practice, on pictures of other tasks."""

    pictures: int
    before: float
    after: float

    def __str__(self) -> str:
        return f"acts as before practice in {self.before:.2f} -> {self.after:.2f} of {self.pictures} logged pictures"


class Consolidation:
    """Trains the parameters of `weights` for `config.consolidation_steps`.

    before: their values before practice. Every process calls it with the same views, and does the same.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        weights: TrainedWeights,
        before: Mapping[str, torch.Tensor],
        config: GRPOConfig,
        processes: Ranks,
    ) -> None:
        self.policy, self.weights, self.before = policy, weights, before
        self.config, self.processes = config, processes

    def __call__(self, learned: Views, others: Views) -> Kept:
        """learned: what practice taught to act on; others: logged pictures of other tasks.

        Raises: DataError when the loss is not finite.
        """
        with self.weights.exchanged(self.before):
            kept = self._greedy(others)
        first = self._greedy(others)
        self._train((learned, self._greedy(learned)), (others, kept))
        last = self._greedy(others)
        return Kept(len(others), float((first == kept).mean()), float((last == kept).mean()))

    def _greedy(self, views: Views) -> np.ndarray:
        """The most likely tokens of the policy as it is, (N, L)."""
        found = []
        for begin in range(0, len(views), self.config.micro_batch):
            part = slice(begin, begin + self.config.micro_batch)
            words = views.instructions[part]
            found.append(self.policy.sample(views.frames[part], words, NEAR_GREEDY, [0] * len(words)).tokens)
        return np.concatenate(found)

    def _train(self, *lessons: tuple[Views, np.ndarray]) -> None:
        """Steps on as many pictures of each lesson, drawn by the seed."""
        config, parameters = self.config, list(self.weights.named.values())
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
        random = np.random.default_rng(derive_seed(config.seed, "consolidation"))
        for _ in range(config.consolidation_steps):
            optimizer.zero_grad(set_to_none=True)
            for views, tokens in lessons:
                chosen = random.choice(len(views), EACH, replace=len(views) < EACH)
                for part in np.array_split(chosen, -(-EACH // min(EACH, config.micro_batch))):
                    words = [views.instructions[index] for index in part]
                    log_probs, _ = self.policy.log_probs(views.frames[part], words, tokens[part], 1.0)
                    loss = -log_probs.mean() * (len(part) / EACH / len(lessons))
                    if not torch.isfinite(loss):
                        raise DataError("consolidation: the loss is not finite; lower the learning rate")
                    loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
        if not self.weights.sharded:
            self.processes.broadcast(parameters)

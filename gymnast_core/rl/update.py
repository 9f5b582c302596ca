"""One update: trajectories with group-relative advantages, what anchors the policy, and the gradient of their loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from gymnast_core.errors import DataError
from gymnast_core.policy.sharding import blank_pass, whole
from gymnast_core.protocols import TrainablePolicy
from gymnast_core.ranks import Ranks
from gymnast_core.rl.advantages import chunk_advantages, progress_advantages
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.groups import shaped_rewards
from gymnast_core.rl.loss import trajectory_weights, weighted_divergence, weighted_policy_loss
from gymnast_core.rl.weights import TrainedWeights
from gymnast_core.rollout.rollout import Group, Rollout
from gymnast_core.seeds import derive_seed


@dataclass(frozen=True)
class Trajectory:
    """One rollout of an update with its advantages, (C,) float32, one per chunk."""

    rollout: Rollout
    advantages: np.ndarray


def trajectories_of(groups: Sequence[Group], config: GRPOConfig) -> list[Trajectory]:
    """The trajectories of usable groups, with group-relative advantages."""
    found: list[Trajectory] = []
    for group in groups:
        longest = max(len(rollout.mask) for rollout in group.rollouts)
        alive = np.zeros((len(group.rollouts), longest), dtype=bool)
        for row, rollout in enumerate(group.rollouts):
            alive[row, : len(rollout.mask)] = rollout.mask.any(axis=1)
        rewards, told = shaped_rewards(group, config), [rollout.progress for rollout in group.rollouts]
        if config.progress_credit and config.progress_by == "chunk" and all(one is not None for one in told):
            progress = np.stack([np.pad(one, (0, longest - len(one))) for one in told if one is not None])
            advantages = progress_advantages(rewards, config.progress_credit * progress, alive)
        else:
            advantages = chunk_advantages(rewards, alive, config.baseline)
        found.extend(Trajectory(rollout, row[: len(rollout.mask)]) for rollout, row in zip(group.rollouts, advantages))
    return found


@dataclass
class UpdateStatistics:
    """Means over the optimiser steps of one update."""

    loss: float = 0.0
    clip_fraction: float = 0.0
    approx_kl: float = 0.0
    entropy: float = 0.0
    divergence: float = 0.0
    """From the policy before practice, on rehearsed tasks."""
    grad_norm: float = 0.0
    optimizer_steps: int = 0


def count_passes(trajectories: Sequence[Trajectory], config: GRPOConfig) -> int:
    """How many passes through the network `accumulate_gradients` takes."""
    calls = sum(int(trajectory.rollout.mask.any(axis=1).sum()) for trajectory in trajectories)
    return math.ceil(calls / config.micro_batch)


@dataclass(frozen=True)
class Calls:
    """Some calls of the policy: frames (N, ...), instructions, tokens (N, L), log_probs (N, L) on record."""

    frames: np.ndarray
    instructions: list[str]
    tokens: np.ndarray
    log_probs: torch.Tensor
    weights: torch.Tensor
    """(N, L) float32; over all calls they make the mean over trajectories of the token mean."""
    advantages: torch.Tensor
    """(N, 1) float32."""

    def log_probs_now(self, policy: TrainablePolicy, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the policy as it is, (N, L) each."""
        return policy.log_probs(self.frames, self.instructions, self.tokens, temperature)


def calls_of(trajectories: Sequence[Trajectory], total: int, micro_batch: int) -> Iterator[Calls]:
    """The unmasked calls of trajectories, `micro_batch` at a time.

    total: trajectories of the whole minibatch, over all processes: the loss is their mean.
    """
    if not trajectories:
        return
    length = trajectories[0].rollout.mask.shape[1]
    chunks = max(len(t.rollout.mask) for t in trajectories)
    mask = np.zeros((len(trajectories), chunks, length), dtype=bool)
    for row, trajectory in enumerate(trajectories):
        mask[row, : len(trajectory.rollout.mask)] = trajectory.rollout.mask
    weights = trajectory_weights(torch.from_numpy(mask.reshape(len(trajectories), -1))).reshape(mask.shape)
    with_tokens = max(1, int(mask.any(axis=(1, 2)).sum()))
    weights = weights * (with_tokens / total)
    places = [(row, chunk) for row, chunk in np.argwhere(mask.any(axis=2))]
    for begin in range(0, len(places), micro_batch):
        part = places[begin : begin + micro_batch]
        rollouts = [(trajectories[row].rollout, chunk) for row, chunk in part]
        yield Calls(
            np.stack([rollout.frames[chunk] for rollout, chunk in rollouts]),
            [rollout.start.instruction for rollout, _ in rollouts],
            np.stack([rollout.tokens[chunk] for rollout, chunk in rollouts]).astype(np.int64),
            torch.from_numpy(np.stack([rollout.log_probs[chunk] for rollout, chunk in rollouts])),
            torch.stack([weights[row, chunk] for row, chunk in part]),
            torch.tensor([[float(trajectories[row].advantages[chunk])] for row, chunk in part]),
        )


def accumulate_gradients(
    policy: TrainablePolicy,
    trajectories: Sequence[Trajectory],
    total: int,
    config: GRPOConfig,
    scale: float = 1.0,
) -> dict[str, float]:
    """Add the gradient of the loss of `trajectories` to the policy's parameters; returns the loss and statistics.

    total: trajectories of the whole minibatch, over all processes: the loss is their mean. scale: of the gradient only.
    """
    sums = {"loss": 0.0, "clip_fraction": 0.0, "approx_kl": 0.0, "entropy": 0.0}
    for calls in calls_of(trajectories, total, config.micro_batch):
        log_probs, entropies = calls.log_probs_now(policy, config.temperature)
        device = log_probs.device
        old, weights = calls.log_probs.to(device), calls.weights.to(device)
        advantages = calls.advantages.to(device).expand_as(log_probs)
        loss, statistics = weighted_policy_loss(log_probs, old, advantages, weights, config.clip_low, config.clip_high)
        if not torch.isfinite(loss):
            raise DataError("the policy's loss is not finite; lower the learning rate and resume from the checkpoint")
        (loss * scale).backward()
        sums["loss"] += float(loss.detach())
        sums["clip_fraction"] += float(statistics.clip_fraction)
        sums["approx_kl"] += float(statistics.approx_kl)
        sums["entropy"] += float((entropies.detach() * weights).sum())
    return sums


def accumulate_divergence(
    policy: TrainablePolicy, anchors: Sequence[Trajectory], total: int, config: GRPOConfig, scale: float = 1.0
) -> float:
    """Add the gradient of `rehearsal_anchor` times the divergence from the log-probabilities on record.

    Returns the divergence, in nats per token. Arguments as above.
    """
    found = 0.0
    for calls in calls_of(anchors, total, config.micro_batch):
        log_probs, _ = calls.log_probs_now(policy, config.temperature)
        device = log_probs.device
        divergence = weighted_divergence(log_probs, calls.log_probs.to(device), calls.weights.to(device))
        if not torch.isfinite(divergence):
            raise DataError("the divergence from the base is not finite; lower the learning rate or rehearsal_anchor")
        (divergence * config.rehearsal_anchor * scale).backward()
        found += float(divergence.detach())
    return found


class PolicyUpdate:
    """Optimises the trained parameters of `module` on groups of rollouts, in one process or in many."""

    def __init__(self, policy: TrainablePolicy, weights: TrainedWeights, config: GRPOConfig, processes: Ranks) -> None:
        self.policy, self.module = policy, weights.module
        self.config = config
        self.processes = processes
        self.weights = weights
        self.parameters = list(weights.named.values())
        self.optimizer = weights.optimizer
        self.before = weights.copy() if config.rehearsal_anchor or config.consolidation_steps else {}
        """The trained parameters before practice."""

    def __call__(self, groups: Sequence[Group], update: int, rehearsed: Sequence[Rollout] = ()) -> UpdateStatistics:
        """`epochs` passes over the trajectories of `groups` in minibatches of `minibatch`; update: those before it.

        rehearsed: rollouts of other tasks, on which the policy is to stay as it was (`rehearsal_anchor`).

        Raises: DataError when loss or gradient is not finite.
        """
        config = self.config
        trajectories = trajectories_of(groups, config)
        anchors = self._anchors(rehearsed) if config.rehearsal_anchor else []
        (total,) = self.processes.sum(len(trajectories))
        parts = max(1, round(total / config.minibatch))
        statistics = UpdateStatistics()
        for epoch in range(config.epochs):
            generator = np.random.default_rng(derive_seed(config.seed, "shuffle", self.processes.rank, update, epoch))
            order = generator.permutation(len(trajectories))
            for number, indices in enumerate(np.array_split(order, parts)):
                self._optimise([trajectories[index] for index in indices], anchors[number::parts], statistics)
        self.optimizer.zero_grad(set_to_none=True)
        steps = max(1, statistics.optimizer_steps)
        for name in ("loss", "clip_fraction", "approx_kl", "entropy", "divergence", "grad_norm"):
            setattr(statistics, name, getattr(statistics, name) / steps)
        return statistics

    def _anchors(self, rehearsed: Sequence[Rollout]) -> list[Trajectory]:
        """Rollouts with the log-probabilities that the policy before practice gives their tokens."""
        anchors = [Trajectory(one, np.zeros(len(one.mask), dtype=np.float32)) for one in rehearsed]
        found = [one.rollout.log_probs.copy() for one in anchors]
        places = [(row, chunk) for row, one in enumerate(anchors) for chunk in np.flatnonzero(one.rollout.mask.any(1))]
        told: list[np.ndarray] = []
        with self.weights.exchanged(self.before), torch.no_grad(), self._in_step(anchors, gradient=False):
            for calls in calls_of(anchors, 1, self.config.micro_batch):
                told.extend(calls.log_probs_now(self.policy, self.config.temperature)[0].float().cpu().numpy())
        for (row, chunk), log_probs in zip(places, told, strict=True):
            found[row][chunk] = log_probs
        return [
            dataclasses.replace(one, rollout=dataclasses.replace(one.rollout, log_probs=log_probs))
            for one, log_probs in zip(anchors, found)
        ]

    @contextmanager
    def _in_step(self, trajectories: Sequence[Trajectory], gradient: bool) -> Iterator[None]:
        """Around the passes over trajectories: a process with fewer of them takes part in those of the others, since a
        sharded network needs all processes in each."""
        passes = count_passes(trajectories, self.config)
        blanks = int(self.processes.most(passes)[0]) - passes if self.weights.sharded else 0
        yield
        for _ in range(blanks):
            blank_pass(self.module, gradient=gradient)

    def _optimise(
        self, minibatch: Sequence[Trajectory], anchors: Sequence[Trajectory], statistics: UpdateStatistics
    ) -> None:
        """One optimiser step on this process's share of a minibatch."""
        config = self.config
        size, anchored = (int(count) for count in self.processes.sum(len(minibatch), len(anchors)))
        if size == 0:
            return
        self.optimizer.zero_grad(set_to_none=True)
        # FSDP averages gradients over the processes, and each loss is divided by all trajectories already.
        scale = float(self.processes.size) if self.weights.sharded else 1.0
        with self._in_step(minibatch, gradient=True):
            sums = accumulate_gradients(self.policy, minibatch, size, config, scale)
        with self._in_step(anchors, gradient=True):
            divergence = accumulate_divergence(self.policy, anchors, anchored, config, scale)
        if not self.weights.sharded:
            self.processes.sum_gradients(self.parameters)
        grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)))
        if not math.isfinite(grad_norm):
            raise DataError(
                "the policy's gradient is not finite; lower the learning rate and resume from the checkpoint"
            )
        self.optimizer.step()
        totals = self.processes.sum(*sums.values(), divergence)
        statistics.loss += totals[0]
        statistics.clip_fraction += totals[1]
        statistics.approx_kl += totals[2]
        statistics.entropy += totals[3]
        statistics.divergence += totals[4]
        statistics.grad_norm += grad_norm
        statistics.optimizer_steps += 1

"""One update: trajectories with group-relative advantages, and the gradient of their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from gymnast_core.rl.loss import trajectory_weights, weighted_policy_loss
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
    grad_norm: float = 0.0
    optimizer_steps: int = 0


def count_passes(trajectories: Sequence[Trajectory], config: GRPOConfig) -> int:
    """How many passes through the network `accumulate_gradients` takes."""
    calls = sum(int(trajectory.rollout.mask.any(axis=1).sum()) for trajectory in trajectories)
    return math.ceil(calls / config.micro_batch)


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
    if not trajectories:
        return sums
    length = trajectories[0].rollout.mask.shape[1]
    chunks = max(len(t.rollout.mask) for t in trajectories)
    mask = np.zeros((len(trajectories), chunks, length), dtype=bool)
    for row, trajectory in enumerate(trajectories):
        mask[row, : len(trajectory.rollout.mask)] = trajectory.rollout.mask
    weights = trajectory_weights(torch.from_numpy(mask.reshape(len(trajectories), -1))).reshape(mask.shape)
    with_tokens = max(1, int(mask.any(axis=(1, 2)).sum()))
    weights = weights * (with_tokens / total)
    calls = [(row, chunk) for row, chunk in np.argwhere(mask.any(axis=2))]
    for begin in range(0, len(calls), config.micro_batch):
        part = calls[begin : begin + config.micro_batch]
        rollouts = [trajectories[row].rollout for row, _ in part]
        log_probs, entropies = policy.log_probs(
            np.stack([rollout.frames[chunk] for rollout, (_, chunk) in zip(rollouts, part)]),
            [rollout.start.instruction for rollout in rollouts],
            np.stack([rollout.tokens[chunk] for rollout, (_, chunk) in zip(rollouts, part)]).astype(np.int64),
            config.temperature,
        )
        device = log_probs.device
        old = torch.from_numpy(np.stack([r.log_probs[chunk] for r, (_, chunk) in zip(rollouts, part)])).to(device)
        advantages = torch.tensor([float(trajectories[row].advantages[chunk]) for row, chunk in part], device=device)[
            :, None
        ].expand_as(log_probs)
        part_weights = torch.stack([weights[row, chunk] for row, chunk in part]).to(device)
        loss, statistics = weighted_policy_loss(
            log_probs, old, advantages, part_weights, config.clip_low, config.clip_high
        )
        if not torch.isfinite(loss):
            raise DataError("the policy's loss is not finite; lower the learning rate and resume from the checkpoint")
        (loss * scale).backward()
        sums["loss"] += float(loss.detach())
        sums["clip_fraction"] += float(statistics.clip_fraction)
        sums["approx_kl"] += float(statistics.approx_kl)
        sums["entropy"] += float((entropies.detach() * part_weights).sum())
    return sums


class PolicyUpdate:
    """Optimises the trained parameters of `module` on groups of rollouts, in one process or in many."""

    def __init__(self, policy: TrainablePolicy, weights: TrainedWeights, config: GRPOConfig, processes: Ranks) -> None:
        self.policy, self.module = policy, weights.module
        self.config = config
        self.processes = processes
        self.sharded = weights.sharded
        self.parameters = list(weights.named.values())
        self.optimizer = weights.optimizer

    def __call__(self, groups: Sequence[Group], update: int) -> UpdateStatistics:
        """`epochs` passes over the trajectories of `groups` in minibatches of `minibatch`; update: those before it.

        Raises: DataError when loss or gradient is not finite.
        """
        config = self.config
        trajectories = trajectories_of(groups, config)
        (total,) = self.processes.sum(len(trajectories))
        parts = max(1, round(total / config.minibatch))
        statistics = UpdateStatistics()
        for epoch in range(config.epochs):
            generator = np.random.default_rng(derive_seed(config.seed, "shuffle", self.processes.rank, update, epoch))
            order = generator.permutation(len(trajectories))
            for indices in np.array_split(order, parts):
                self._optimise([trajectories[index] for index in indices], statistics)
        self.optimizer.zero_grad(set_to_none=True)
        steps = max(1, statistics.optimizer_steps)
        for name in ("loss", "clip_fraction", "approx_kl", "entropy", "grad_norm"):
            setattr(statistics, name, getattr(statistics, name) / steps)
        return statistics

    def _optimise(self, minibatch: Sequence[Trajectory], statistics: UpdateStatistics) -> None:
        """One optimiser step on this process's share of a minibatch."""
        config = self.config
        (size,) = self.processes.sum(len(minibatch))
        if size == 0:
            return
        self.optimizer.zero_grad(set_to_none=True)
        # FSDP averages gradients over the processes, and each loss is divided by all trajectories already.
        scale = float(self.processes.size) if self.sharded else 1.0
        passes = count_passes(minibatch, config)
        blanks = int(self.processes.most(passes)[0]) - passes if self.sharded else 0
        sums = accumulate_gradients(self.policy, minibatch, int(size), config, scale)
        for _ in range(blanks):
            blank_pass(self.module, gradient=True)
        if not self.sharded:
            self.processes.sum_gradients(self.parameters)
        grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)))
        if not math.isfinite(grad_norm):
            raise DataError(
                "the policy's gradient is not finite; lower the learning rate and resume from the checkpoint"
            )
        self.optimizer.step()
        totals = self.processes.sum(*sums.values())
        statistics.loss += totals[0]
        statistics.clip_fraction += totals[1]
        statistics.approx_kl += totals[2]
        statistics.entropy += totals[3]
        statistics.grad_norm += grad_norm
        statistics.optimizer_steps += 1

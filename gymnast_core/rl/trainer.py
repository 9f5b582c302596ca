"""GRPO (World-Gymnast, arXiv 2602.02454, section 3.2): sample groups, score them, compare within the group, update.

What is done differently from the published implementation, and why: groups that are usable but not needed now, and
those of a batch too small for an update, are carried over with the log-probabilities they were sampled with, for at
most `max_staleness` updates (there, they are dropped); log-probabilities are those of sampling, so that minibatches and
epochs make clipping do something; the learning rate has no warm-up from zero; a rollout without a verdict leaves its
group instead of counting as failed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gymnast_core.errors import CheckpointError
from gymnast_core.progress import say
from gymnast_core.protocols import Environment, Judge, Start, TrainablePolicy
from gymnast_core.ranks import Ranks
from gymnast_core.reward.spending import Spending
from gymnast_core.rl.checkpoint import DAMAGE, IDENTITY, group_from_state, group_state, knows_changes
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.groups import (
    Generation,
    GroupSource,
)
from gymnast_core.rl.update import PolicyUpdate, UpdateStatistics
from gymnast_core.rl.weights import TrainedWeights
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.mixture import Part, describe_parts
from gymnast_core.rollout.rollout import Group
from gymnast_core.run_folder import RunFolder, refuse_other_options


class GRPOTrainer:
    """Trains the parameters of `module` that require gradients, by GRPO.

    policy: samples and gives log-probabilities. module: the network behind it, whose parameters are trained; it may be
    sharded over processes (`Ranks.shard`).
    environment, judge, starts: where rollouts happen, who scores them, where they begin.
    run: metrics, progress and checkpoints; a run folder with a checkpoint is resumed.
    rehearsal: starts of other tasks, mixed in as `rehearsal_share` of the groups so that these tasks are not forgotten.
    about: what else a resumed run must have in common with its beginning (which models, which judge).
    confirm: says which successes are to be believed, see `run_rollouts`.

    Raises: ConfigError where nothing can be trained, or the folder's run had other models, judge or `IDENTITY`;
    DataError where it began at other starts; CheckpointError where its checkpoint belongs to another training.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        module: nn.Module,
        environment: Environment,
        judge: Judge,
        starts: Sequence[Start],
        config: GRPOConfig,
        run: RunFolder,
        rehearsal: Sequence[Start] = (),
        about: Mapping[str, str] | None = None,
        confirm: Confirms | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        self.policy = policy
        self.module = module
        self.environment = environment
        self.judge = judge
        self.config = config
        self.run = run
        self._about = {
            **(about or {}),
            **{name: str(getattr(config, name)) for name in IDENTITY},
            "rehearsal": f"{len(rehearsal)} starts",
            "mixture": describe_parts(parts),
        }
        self.processes = Ranks()
        self.source = GroupSource(
            policy, module, environment, judge, starts, config, self.processes, rehearsal, confirm, parts
        )
        self.trained = TrainedWeights(module, config, self.processes, str(run.path))
        self.update_policy = PolicyUpdate(policy, self.trained, config, self.processes)
        self.update = 0
        self.carried: list[Group] = []
        self._recent: list[float] = []
        """Mean rewards of the last `best_over` updates."""
        self._resume()

    # --- update -------------------------------------------------------------------------------------------------

    def take_groups(self, generation: Generation) -> tuple[list[Group], int]:
        """The groups of this update, oldest first, and how many were too old; the surplus is carried over."""
        config = self.config
        limit = math.ceil(config.groups / self.processes.size)
        pool = self.carried + generation.usable
        used, surplus = pool[:limit], pool[limit:]
        fresh = [group for group in surplus if self.update + 1 - group.version <= config.max_staleness]
        self.carried = fresh
        return used, len(surplus) - len(fresh)

    def reconfigure(self, config: GRPOConfig) -> None:
        """Go on with other options, for instance other group counts in a benchmark."""
        self.config = self.source.config = self.update_policy.config = config

    def step(self, tick: Callable[[], None] | None = None, late: Callable[[], bool] | None = None) -> dict[str, float]:
        """One iteration: generate, update, log; returns the metrics.

        tick: called after every chunk of the rollouts; it may stop the iteration by raising, before any weight changes.
        In several processes that would leave the others waiting: `late`, asked after every batch, ends all of them.
        """
        began = time.monotonic()
        generation = self.source.generate(self.update, len(self.carried), tick, late)
        generated = time.monotonic()
        groups, stale = self.take_groups(generation)
        statistics = self.update_policy(groups, self.update, generation.rehearsed)
        self.update += 1
        metrics = self._metrics(generation, groups, stale, statistics)
        metrics["seconds_rollout"] = generated - began
        metrics["seconds_update"] = time.monotonic() - generated
        if self.processes.rank == 0:
            self.run.log(self.update, metrics)
        self._recent = [*self._recent, metrics["mean_reward"]][-self.config.best_over :]
        if self.update % self.config.checkpoint_every == 0:
            self.save()
        return metrics

    def _metrics(
        self, generation: Generation, groups: Sequence[Group], stale: int, statistics: UpdateStatistics
    ) -> dict[str, float]:
        rewards: dict[str, list[float]] = {}
        for own in self.processes.gather(generation.rewards):
            for instruction, values in own.items():
                rewards.setdefault(instruction, []).extend(values)
        total = sum(map(sum, rewards.values()))
        count = sum(map(len, rewards.values()))
        n_groups, n_usable, abstained, used, carried, n_stale = self.processes.sum(
            generation.n_groups, generation.n_usable, generation.abstentions, len(groups), len(self.carried), stale
        )
        changed, judged = self.processes.sum(sum(generation.changed_shares), len(generation.changed_shares))
        metrics = {
            "mean_reward": total / count if count else math.nan,
            "usable_groups": n_usable / max(1, n_groups),
            "actions_changed": changed / judged if judged else math.nan,
            "abstentions": abstained,
            "groups_used": used,
            "groups_carried": carried,
            "groups_stale": n_stale,
            "batches": float(generation.batches),
            "loss": statistics.loss,
            "clip_fraction": statistics.clip_fraction,
            "approx_kl": statistics.approx_kl,
            "entropy": statistics.entropy,
            "divergence": statistics.divergence,
            "grad_norm": statistics.grad_norm,
            "optimizer_steps": float(statistics.optimizer_steps),
        }
        spending = getattr(self.judge, "spending", None)
        if isinstance(spending, Spending):
            spent = self.processes.sum(spending.dollars, spending.tokens, spending.failed_votes)
            metrics |= dict(zip(("judge_dollars", "judge_tokens", "judge_failed_votes"), spent))
        weights = self.source.sampler.weights()
        for instruction, values in sorted(rewards.items()):
            name = "_".join(instruction.lower().split())[:60]
            # Half a point is a reward, and no success.
            metrics[f"success/{name}"] = float(np.mean(np.array(values) >= 1.0)) if values else math.nan
            chosen = [w for w, start in zip(weights, self.source.sampler.starts) if start.instruction == instruction]
            if chosen and self.config.curriculum != "uniform":
                metrics[f"curriculum/{name}"] = float(np.mean(chosen))
        return metrics

    # --- checkpoints --------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the trained parameters, whole, on the CPU of the first process; every process calls this."""
        return self.trained.collect()

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put whole weights in place, on every process. Raises: CheckpointError when they are another policy's."""
        self.trained.load(weights)

    def save(self) -> None:
        """Write a checkpoint from which the run goes on as if it had never stopped; every rank calls this."""
        ranks = self.processes.gather(
            {
                "carried": [group_state(group) for group in self.carried],
                **self.source.state(),
            }
        )
        weights, optimizer = self.weights(), self.trained.optimizer_state()
        if self.processes.rank != 0:
            return
        self.run.save_checkpoint(
            self.update,
            {
                "update": self.update,
                "batch": self.source.batch,
                "fruitless": self.source.fruitless,
                "recent": self._recent,
                "about": self._about,
                "temperature": self.config.temperature,
                "weights": weights,
                "optimizer": optimizer,
                "ranks": ranks,
            },
            keep=self.config.keep_checkpoints,
            score=float(np.mean(self._recent)) if len(self._recent) == self.config.best_over else None,
        )

    def restore_best(self) -> int | None:
        """Give the policy the weights of the best checkpoint; its number of updates, None where there is no best."""
        self.processes.wait()  # for the first one to have written it
        state = self.run.load_best()
        if state is None:
            return None
        try:
            self.load_weights(state["weights"])
            return int(state["update"])
        except DAMAGE as error:
            raise CheckpointError(self._foreign(state, error)) from error

    def _resume(self) -> None:
        state = self.run.load_checkpoint(tidy=self.processes.first, mapped=self.processes.size > 1)
        if len(set(self.processes.gather(None if state is None else state["step"]))) > 1:
            raise CheckpointError(f"{self.run.path}: not all processes see the same checkpoint; use a shared disk")
        if state is None:
            return
        try:
            self._go_on_from(state)
        except DAMAGE as error:
            raise CheckpointError(self._foreign(state, error)) from error
        if self.processes.first:
            say(f"resuming {self.run.path} after update {self.update}")

    def _foreign(self, state: Mapping[str, Any], error: Exception) -> str:
        folder = self.run.path / "checkpoints" / f"step_{state['step']:08d}"
        return (
            f"{folder}/state.pt: not a checkpoint of this training ({type(error).__name__}: {error}); delete it to "
            "go on from the one before, or use another --run"
        )

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        refuse_other_options(self.run.path, state["about"], self._about)
        self.load_weights(state["weights"])
        self.trained.load_optimizer_state(state["optimizer"])
        self.update, self.source.batch = int(state["update"]), int(state["batch"])
        self.source.fruitless, self._recent = int(state["fruitless"]), list(state.get("recent", []))
        ranks, rank, size = state["ranks"], self.processes.rank, self.processes.size
        if len(ranks) == size:
            carried = ranks[rank]["carried"]
        else:  # another number of processes: deal the carried groups out anew
            carried = [group for entry in ranks for group in entry["carried"]][rank::size]
        if state["temperature"] != self.config.temperature:
            carried = []  # their log-probabilities are those of the temperature they were sampled at
        # Groups of a version that did not note what the envelope changed cannot be compared by it.
        self.carried = [group_from_state(group) for group in carried if knows_changes(group)]
        self.source.load_state(ranks[rank % len(ranks)])

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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from gymnast_core.config import Fraction, NotNegative, Positive, Seed, load_config
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.policy.parallel import Ranks, divided_like, is_sharded, whole
from gymnast_core.progress import console
from gymnast_core.protocols import Environment, Judge, Start, TrainablePolicy, Verdict
from gymnast_core.reward.spending import Spending
from gymnast_core.rl.advantages import chunk_advantages, group_is_usable
from gymnast_core.rl.loss import trajectory_weights, weighted_policy_loss
from gymnast_core.rl.rollout import Group, Rollout, RolloutOptions, group_starts, run_rollouts
from gymnast_core.rl.starts import StartSampler
from gymnast_core.run_folder import RunFolder, derive_seed, refuse_other_options

DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)
"""What reading a state raises that holds other things than it should."""
MIN_PENALTY_STD = 0.02
"""How much the safety penalties of a group that succeeds throughout must differ for it to be used."""
IDENTITY = ("trainable", "base_precision", "lora_rank", "lora_alpha", "lora_vision", "seed")
"""Options of a recipe that a resumed run has in common with its beginning; the others may be changed on the way."""
RECIPES = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class GRPOConfig:
    """Everything GRPO needs to know besides the policy, the environment, the judge and the starts."""

    groups: Annotated[int, Field(ge=1)] = 20
    """Groups generated per batch, and used by one update at most."""
    min_groups: Annotated[int, Field(ge=1)] = 20
    """Usable groups an update needs; batches are generated until there are as many."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts of one start that are compared with each other."""
    min_group_size: Annotated[int, Field(ge=2)] = 4
    """A group that abstentions left smaller than this is not used."""
    horizon: Annotated[int, Field(ge=1, le=1000)] = 40
    """Environment steps of a rollout."""
    temperature: Positive = 1.6
    """Of sampling and of the log-probabilities alike."""
    learning_rate: Positive = 5e-6
    weight_decay: NotNegative = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    clip_low: Fraction = 0.2
    clip_high: NotNegative = 0.28
    filter_low: Fraction = 0.1
    """Groups of binary rewards are used when their mean is not below this ..."""
    filter_high: Fraction = 0.9
    """... nor above this. Groups of real-valued rewards are used when their rewards differ."""
    safety_penalty: NotNegative = 0.0
    """Taken off a rollout's reward, times the share of its actions that the safety envelope changed: of two successes
    the one within the envelope is the better. 0: the paper's reward. Whether a group is used is decided by the judge's
    scores alone; with a penalty, groups that succeed throughout are used too where these shares differ."""
    baseline: Literal["group", "alive"] = "group"
    """Compare a chunk with the whole group (the paper) or with the members still acting at that chunk."""
    minibatch: Annotated[int, Field(ge=1)] = 160
    """Trajectories per optimiser step, about: an update's are divided evenly among so many steps as come nearest."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the trajectories of an update."""
    micro_batch: Annotated[int, Field(ge=1)] = 64
    """Policy calls per forward pass: memory only, the result does not depend on it."""
    recompute_activations: bool = False
    """Trade time for memory in the update."""
    max_grad_norm: Positive = 1.0
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """At most this many updates may lie between the sampling of a carried group and its use; 0 carries none over."""
    common_noise: bool = False
    """Give the world model's noise the same seed across a group."""
    curriculum: Literal["uniform", "variance"] = "uniform"
    """Take starts equally often, or more often where success and failure are mixed."""
    trainable: Literal["full", "lora"] = "full"
    """Train all weights of the policy, or low-rank adapters on it."""
    base_precision: Literal["auto", "float32", "bfloat16", "nf4"] = "auto"
    """Of the frozen base under an adapter: auto is float32 on a CPU and bfloat16 on a GPU; nf4 keeps the language
    model's layers in 4 bits (package bitsandbytes). All weights are trained in float32."""
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = 32
    lora_alpha: Positive = 16.0
    lora_vision: bool = False
    """Adapt the vision towers and the projector too, not the language model alone."""
    shard: bool = True
    """Under torchrun: divide weights, gradients and optimiser state among the processes (FSDP2). False: each process
    keeps all of them, which costs memory and spares the traffic of gathering weights for every pass."""
    warn_after: Annotated[int, Field(ge=1)] = 5
    """Warn when so many batches in a row had no usable group."""
    give_up_after: Annotated[int, Field(ge=1)] = 50
    """End the practice when so many batches in a row had no usable group."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Updates between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """So many last ones are kept, and the best one."""
    best_over: Annotated[int, Field(ge=1)] = 5
    """The best checkpoint has the highest mean reward over this many updates up to it. An update's reward is that of
    the rollouts it learned from, so the weights are one update ahead of it."""
    seed: Seed = 0


def load_recipe(recipe: str, **overrides: Any) -> GRPOConfig:
    """A shipped recipe by name ("paper", "mini") or a YAML file by path.

    Raises: ConfigError when there is no such recipe or a field is wrong.
    """
    shipped = RECIPES / f"{recipe}.yaml"
    path = shipped if shipped.exists() else Path(recipe).expanduser()
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"recipe '{recipe}': neither a file nor a shipped recipe ({names})")
    config = load_config(GRPOConfig, path, overrides)
    if config.min_groups > config.groups and config.max_staleness == 0:
        raise ConfigError(
            f"{path}: min_groups {config.min_groups} exceeds groups {config.groups}, and max_staleness is 0"
        )
    if config.trainable == "full" and config.base_precision not in ("auto", "float32"):
        raise ConfigError(f"{path}: base_precision {config.base_precision} is for adapters; all weights need float32")
    if config.filter_low > config.filter_high:
        raise ConfigError(f"{path}: filter_low {config.filter_low} is above filter_high {config.filter_high}")
    return config


@dataclass(frozen=True)
class Trajectory:
    """One rollout of an update with its advantages, (C,) float32, one a chunk."""

    rollout: Rollout
    advantages: np.ndarray


def shaped_rewards(group: Group, config: GRPOConfig) -> np.ndarray:
    """What the members of a group are compared by, (G,) float64: the scores less the safety penalty."""
    return group.rewards - config.safety_penalty * np.array([rollout.changed_share for rollout in group.rollouts])


def trajectories_of(groups: Sequence[Group], config: GRPOConfig) -> list[Trajectory]:
    """The trajectories of usable groups, with group-relative advantages."""
    found: list[Trajectory] = []
    for group in groups:
        longest = max(len(rollout.mask) for rollout in group.rollouts)
        alive = np.zeros((len(group.rollouts), longest), dtype=bool)
        for row, rollout in enumerate(group.rollouts):
            alive[row, : len(rollout.mask)] = rollout.mask.any(axis=1)
        advantages = chunk_advantages(shaped_rewards(group, config), alive, config.baseline)
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


ADVICE = {
    "unjudged": "the judge abstained too often: look at its answers, key and limits",
    "failing": "nearly all rollouts fail: raise the temperature, take easier start frames, or give partial credit "
    "(partial_credit_criteria of a task; --partial-credit on the station)",
    "succeeding": "nearly all rollouts succeed: take harder start frames, or stop here",
    "alike": "all rollouts of a start get the same partial credit: raise the temperature, or lengthen the horizon",
}


@dataclass
class Generation:
    """What came of generating groups for one update."""

    usable: list[Group] = field(default_factory=list)
    n_groups: int = 0
    n_usable: int = 0
    rewards: dict[str, list[float]] = field(default_factory=dict)
    """By instruction."""
    unusable: Counter[str] = field(default_factory=Counter)
    """How many groups were unusable, by reason: keys of ADVICE."""
    changed_shares: list[float] = field(default_factory=list)
    """Of each judged rollout, see `Rollout.changed_share`."""
    abstentions: int = 0
    batches: int = 0


class BudgetSpent(Exception):
    """Training time is over."""


class NothingToLearn(Exception):
    """So many batches in a row had no usable group that practice ends."""


class GRPOTrainer:
    """Trains the parameters of `module` that require gradients, by GRPO.

    policy: samples and gives log-probabilities. module: the network behind it, whose parameters are trained; it may be
    sharded over processes (`Ranks.shard`).
    environment, judge, starts: where rollouts happen, who scores them, where they begin.
    run: metrics, progress and checkpoints; a run folder with a checkpoint is resumed.
    rehearsal: starts of other tasks, mixed in as `rehearsal_share` of the groups so that these tasks are not forgotten.
    about: what else a resumed run must have in common with its beginning (which models, which judge).

    Raises: ConfigError where nothing can be trained, or the folder's run had other models, judge or `IDENTITY`;
    DataError where it began at other starts; CheckpointError where its checkpoint is none of this training.
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
        rehearsal_share: float = 0.25,
        about: Mapping[str, str] | None = None,
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
        }
        self.processes = Ranks()
        self.sharded = is_sharded(module)
        # Every process draws the starts of all and takes its share: any number of processes makes the same groups.
        self.sampler = StartSampler(starts, derive_seed(config.seed, 0), config.curriculum)
        self._rehearsal = StartSampler(rehearsal, derive_seed(config.seed, "rehearsal")) if rehearsal else None
        self._rehearsal_share = rehearsal_share
        self.update = 0
        self.batch = 0
        self.carried: list[Group] = []
        self.example: Rollout | None = None
        """One of the latest rollouts, a successful one where there is one, to look at."""
        self._fruitless = 0
        self.hindrance = ""
        """Why the last batch taught nothing, and what to change; empty where it did."""
        self._recent: list[float] = []
        """Mean rewards of the last `best_over` updates."""
        self._named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self._named:
            raise ConfigError("the policy has no trainable parameter: attach an adapter or train it in full")
        self._parameters = list(self._named.values())
        if not self.sharded:
            self.processes.broadcast(self._parameters)
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        self._resume()

    # --- generation ---------------------------------------------------------------------------------------------

    def generate(self, tick: Callable[[], None] | None = None, late: Callable[[], bool] | None = None) -> Generation:
        """Roll out and score batches until there are enough usable groups (carried ones included).

        Raises, in every process: BudgetSpent when after a batch too few are there and `late` is true in one;
        NothingToLearn when the last `give_up_after` batches had none.
        """
        generation = Generation()
        while True:
            self._generate_batch(generation, tick)
            over = late is not None and late()
            available, spent = self.processes.sum(len(self.carried) + len(generation.usable), float(over))
            if available >= self.config.min_groups:
                return generation
            if spent:
                raise BudgetSpent

    def _generate_batch(self, generation: Generation, tick: Callable[[], None] | None) -> None:
        config, count = self.config, self.config.groups
        chosen: list[tuple[StartSampler, int]] = []
        if self._rehearsal is not None:
            n_rehearsal = min(count - 1, round(count * self._rehearsal_share))
            chosen += [(self._rehearsal, index) for index in self._rehearsal.draw(self.batch, n_rehearsal)]
        chosen += [(self.sampler, index) for index in self.sampler.draw(self.batch, count - len(chosen))]
        own = range(count)[self.processes.rank :: self.processes.size]
        starts: list[Start] = []
        seeds: list[int] = []
        for number in own:
            sampler, index = chosen[number]
            group_seed = derive_seed(config.seed, "group", 0, self.batch, number)
            start = sampler.starts[index]
            if start.frame is None:  # a station's reset is part of the start: keep its seed
                starts.extend([start] * config.group_size)
            else:
                starts.extend(group_starts(start, config.group_size, group_seed, config.common_noise))
            seeds.extend(derive_seed(group_seed, "policy", member) for member in range(config.group_size))
        options = RolloutOptions(config.horizon, config.temperature)
        with self.processes.in_step(self.module):
            rollouts = run_rollouts(self.policy, self.environment, self.judge, starts, seeds, options, tick)
        self.example = max(rollouts, key=lambda one: one.reward if math.isfinite(one.reward) else -1.0, default=None)
        usable = 0
        told: dict[int, np.ndarray] = {}
        for place, number in enumerate(own):
            members = rollouts[place * config.group_size : (place + 1) * config.group_size]
            group = Group(tuple(members), self.update)
            kept = group.without_abstentions()
            generation.abstentions += len(group.rollouts) - len(kept.rollouts)
            generation.rewards.setdefault(group.instruction, []).extend(kept.rewards.tolist())
            generation.changed_shares.extend(rollout.changed_share for rollout in kept.rollouts)
            told[number] = kept.rewards
            generation.n_groups += 1
            if (hindered := self._hindered(kept)) is None:
                generation.usable.append(kept)
                usable += 1
            else:
                generation.unusable[hindered] += 1
        everywhere = {number: rewards for some in self.processes.gather(told) for number, rewards in some.items()}
        for number, (sampler, index) in enumerate(chosen):
            sampler.record(index, everywhere[number])
        generation.n_usable += usable
        generation.batches += 1
        self.batch += 1
        (usable_everywhere,) = self.processes.sum(usable)
        self._fruitless = 0 if usable_everywhere else self._fruitless + 1
        self.hindrance = self._advice(generation) if self._fruitless else ""
        if self._fruitless and self._fruitless % config.warn_after == 0 and self.processes.first:
            console.print(
                f"warning: no usable group in the last {self._fruitless} batches; {self.hindrance}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        if self._fruitless >= config.give_up_after:
            raise NothingToLearn

    def _hindered(self, group: Group) -> str | None:
        """Why a group (abstentions left out) is not used, a key of ADVICE; None where it is."""
        config, rewards = self.config, group.rewards
        if len(rewards) < config.min_group_size:
            return "unjudged"
        if group_is_usable(rewards, config.filter_low, config.filter_high):
            return None
        if (rewards == 1.0).all() and float(shaped_rewards(group, config).std(ddof=1)) > MIN_PENALTY_STD:
            return None
        if not np.isin(rewards, (0.0, 1.0)).all():
            return "alike"
        return "failing" if rewards.mean() < 0.5 else "succeeding"

    def _advice(self, generation: Generation) -> str:
        """What to change, by the most frequent reasons of the groups generated for this update."""
        reasons: Counter[str] = sum(self.processes.gather(generation.unusable), Counter())
        first, *others = reasons.most_common()
        told = [ADVICE[first[0]], *(f"{count} groups otherwise: {ADVICE[reason]}" for reason, count in others)]
        return "; ".join(told)

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

    def update_policy(self, groups: Sequence[Group]) -> UpdateStatistics:
        """Optimise on the trajectories of `groups`: `epochs` passes in minibatches of `minibatch` trajectories."""
        config = self.config
        trajectories = trajectories_of(groups, config)
        (total,) = self.processes.sum(len(trajectories))
        parts = max(1, round(total / config.minibatch))
        statistics = UpdateStatistics()
        for epoch in range(config.epochs):
            generator = np.random.default_rng(
                derive_seed(config.seed, "shuffle", self.processes.rank, self.update, epoch)
            )
            order = generator.permutation(len(trajectories))
            for indices in np.array_split(order, parts):
                minibatch = [trajectories[index] for index in indices]
                (size,) = self.processes.sum(len(minibatch))
                if size == 0:
                    continue
                self.optimizer.zero_grad(set_to_none=True)
                # FSDP averages gradients over the processes, and each loss is divided by all trajectories already.
                scale = float(self.processes.size) if self.sharded else 1.0
                passes = count_passes(minibatch, config)
                blanks = int(self.processes.most(passes)[0]) - passes if self.sharded else 0
                sums = accumulate_gradients(self.policy, minibatch, int(size), config, scale)
                for _ in range(blanks):
                    self.processes.blank(self.module, gradient=True)
                if not self.sharded:
                    self.processes.sum_gradients(self._parameters)
                grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm)))
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
        self.optimizer.zero_grad(set_to_none=True)
        steps = max(1, statistics.optimizer_steps)
        for name in ("loss", "clip_fraction", "approx_kl", "entropy", "grad_norm"):
            setattr(statistics, name, getattr(statistics, name) / steps)
        return statistics

    def step(self, tick: Callable[[], None] | None = None, late: Callable[[], bool] | None = None) -> dict[str, float]:
        """One iteration: generate, update, log; returns the metrics.

        tick: called after every chunk of the rollouts; it may stop the iteration by raising, before any weight changes.
        In several processes that would leave the others waiting: `late`, asked after every batch, ends all of them.
        """
        began = time.monotonic()
        generation = self.generate(tick, late)
        generated = time.monotonic()
        groups, stale = self.take_groups(generation)
        statistics = self.update_policy(groups)
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
            "grad_norm": statistics.grad_norm,
            "optimizer_steps": float(statistics.optimizer_steps),
        }
        spending = getattr(self.judge, "spending", None)
        if isinstance(spending, Spending):
            spent = self.processes.sum(spending.dollars, spending.tokens, spending.failed_votes)
            metrics |= dict(zip(("judge_dollars", "judge_tokens", "judge_failed_votes"), spent))
        weights = self.sampler.weights()
        for instruction, values in sorted(rewards.items()):
            name = "_".join(instruction.lower().split())[:60]
            # Half a point is a reward, and no success.
            metrics[f"success/{name}"] = float(np.mean(np.array(values) >= 1.0)) if values else math.nan
            chosen = [w for w, start in zip(weights, self.sampler.starts) if start.instruction == instruction]
            if chosen and self.config.curriculum != "uniform":
                metrics[f"curriculum/{name}"] = float(np.mean(chosen))
        return metrics

    # --- checkpoints --------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the trained parameters, whole, on the CPU of the first process; every process calls this."""
        return self._collect({name: parameter.detach() for name, parameter in self._named.items()})

    def _collect(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        collected = {}
        for name, tensor in tensors.items():
            one = whole(tensor)
            if self.processes.first:
                collected[name] = one.cpu().clone()
        return collected

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put whole weights in place, on every process. Raises: CheckpointError when they are another policy's."""
        if set(weights) != set(self._named):
            odd = sorted(set(weights) ^ set(self._named))[0]
            raise CheckpointError(f"{self.run.path}: the checkpoint trains other parameters (for one: {odd})")
        for name, value in weights.items():
            parameter = self._named[name]
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"{self.run.path}: '{name}' has shape {tuple(value.shape)}, this policy needs "
                    f"{tuple(parameter.shape)}"
                )
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{self.run.path}: '{name}' of the checkpoint holds a value that is not finite")
            with torch.no_grad():
                parameter.copy_(divided_like(value, parameter))

    def _optimizer_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """By parameter's name, whole, so that any number of processes can go on from it."""
        states = {name: self.optimizer.state.get(parameter, {}) for name, parameter in self._named.items()}
        return {name: self._collect(state) for name, state in states.items()}

    def _load_optimizer_state(self, states: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        if set(states) != set(self._named):
            raise CheckpointError(f"{self.run.path}: the checkpoint's optimiser is of another kind; use another folder")
        for name, state in states.items():
            parameter = self._named[name]
            if state:
                self.optimizer.state[parameter] = {
                    key: divided_like(value, parameter) if value.shape == parameter.shape else value.clone()
                    for key, value in state.items()
                }

    def save(self) -> None:
        """Write a checkpoint from which the run goes on as if it had never stopped; every rank calls this."""
        ranks = self.processes.gather(
            {
                "carried": [_group_state(group) for group in self.carried],
                "sampler": self.sampler.state(),
                "rehearsal": self._rehearsal.state() if self._rehearsal is not None else None,
            }
        )
        weights, optimizer = self.weights(), self._optimizer_state()
        if self.processes.rank != 0:
            return
        self.run.save_checkpoint(
            self.update,
            {
                "update": self.update,
                "batch": self.batch,
                "fruitless": self._fruitless,
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
            console.print(
                f"resuming {self.run.path} after update {self.update}", markup=False, highlight=False, soft_wrap=True
            )

    def _foreign(self, state: Mapping[str, Any], error: Exception) -> str:
        folder = self.run.path / "checkpoints" / f"step_{state['step']:08d}"
        return (
            f"{folder}/state.pt: not a checkpoint of this training ({type(error).__name__}: {error}); delete it to "
            "go on from the one before, or use another --run"
        )

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        refuse_other_options(self.run.path, state["about"], self._about)
        self.load_weights(state["weights"])
        self._load_optimizer_state(state["optimizer"])
        self.update, self.batch = int(state["update"]), int(state["batch"])
        self._fruitless, self._recent = int(state["fruitless"]), list(state.get("recent", []))
        ranks, rank, size = state["ranks"], self.processes.rank, self.processes.size
        if len(ranks) == size:
            carried = ranks[rank]["carried"]
        else:  # another number of processes: deal the carried groups out anew
            carried = [group for entry in ranks for group in entry["carried"]][rank::size]
        if state["temperature"] != self.config.temperature:
            carried = []  # their log-probabilities are those of the temperature they were sampled at
        # Groups of a version that did not note what the envelope changed cannot be compared by it.
        self.carried = [_group_from_state(group) for group in carried if _knows_changes(group)]
        own = ranks[rank % len(ranks)]
        self.sampler.load_state(own["sampler"])
        if self._rehearsal is not None and own["rehearsal"] is not None:
            self._rehearsal.load_state(own["rehearsal"])


def _group_state(group: Group) -> dict[str, Any]:
    return {
        "version": group.version,
        "rollouts": [
            {
                "instruction": rollout.start.instruction,
                "task": rollout.start.task,
                "seed": rollout.start.seed,
                "frames": torch.from_numpy(rollout.frames),
                "tokens": torch.from_numpy(rollout.tokens),
                "log_probs": torch.from_numpy(rollout.log_probs),
                "mask": torch.from_numpy(rollout.mask),
                "actions": torch.from_numpy(rollout.actions),
                "success": rollout.success,
                "safety_events": list(rollout.safety_events),
                "changed": torch.from_numpy(rollout.changed),
                "reward": rollout.reward,
            }
            for rollout in group.rollouts
        ],
    }


def _knows_changes(state: Mapping[str, Any]) -> bool:
    return all("changed" in rollout for rollout in state["rollouts"])


def _group_from_state(state: dict[str, Any]) -> Group:
    rollouts = tuple(
        Rollout(
            start=Start(entry["instruction"], None, entry["task"], entry["seed"]),
            frames=entry["frames"].numpy(),
            tokens=entry["tokens"].numpy(),
            log_probs=entry["log_probs"].numpy(),
            mask=entry["mask"].numpy(),
            actions=entry["actions"].numpy(),
            success=entry["success"],
            safety_events=tuple(entry["safety_events"]),
            changed=entry["changed"].numpy(),
            verdict=Verdict(entry["reward"], 1.0, "carried over"),
        )
        for entry in state["rollouts"]
    )
    return Group(rollouts, state["version"])

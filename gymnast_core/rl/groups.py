"""Groups of rollouts for one update: generated, filtered, carried over, and why there are too few."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from gymnast_core.contents import one_line
from gymnast_core.policy.sharding import in_step
from gymnast_core.progress import console
from gymnast_core.protocols import Environment, Judge, Start, TrainablePolicy
from gymnast_core.ranks import Ranks
from gymnast_core.rl.advantages import group_is_usable
from gymnast_core.rl.branches import BranchPool
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.curriculum import StartSampler
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.mixture import Part
from gymnast_core.rollout.rollout import Group, Rollout, RolloutOptions, group_starts, run_rollouts
from gymnast_core.seeds import derive_seed

MIN_PENALTY_STD = 0.02
"""How much the safety penalties of a group that succeeds throughout must differ for it to be used."""


def shaped_rewards(group: Group, config: GRPOConfig) -> np.ndarray:
    """What the members of a group are compared by, (G,) float64: the scores less the safety penalty."""
    return group.rewards - config.safety_penalty * np.array([rollout.changed_share for rollout in group.rollouts])


ADVICE = {
    "unjudged": "the judge abstained too often: look at its answers, key and limits",
    "failing": "nearly all rollouts fail: raise the temperature, take easier start frames, or give partial credit "
    "(partial_credit_criteria of a task; progress_credit in the recipe; --partial-credit on the station)",
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
    reasons: Counter[str] = field(default_factory=Counter)
    """How many rollouts the judge abstained on, by its reason."""
    rehearsed: list[Rollout] = field(default_factory=list)
    """Rollouts of other tasks in the last batch, whatever their rewards."""
    batches: int = 0

    @property
    def abstentions(self) -> int:
        return self.reasons.total()

    def add(self, group: Group) -> Group:
        """Count a judged group; returns it without its abstentions."""
        kept = group.without_abstentions()
        self.reasons.update(_reason(one) for one in group.rollouts if not math.isfinite(one.reward))
        self.rewards.setdefault(group.instruction, []).extend(kept.rewards.tolist())
        self.changed_shares.extend(rollout.changed_share for rollout in kept.rollouts)
        self.n_groups += 1
        return kept


def _reason(rollout: Rollout) -> str:
    """Why a rollout has no reward."""
    return rollout.verdict.reason if rollout.verdict is not None else "not judged"


@dataclass(frozen=True)
class Chosen:
    """Where one group of a batch begins. sampler and index: whom its rewards are told, None for a branch."""

    start: Start
    sampler: StartSampler | None = None
    index: int = 0

    @property
    def is_branch(self) -> bool:
        return self.sampler is None


class BudgetSpent(Exception):
    """Training time is over."""


class NothingToLearn(Exception):
    """Practice ends: too many batches in a row had no usable group, or the judge gave no verdict in the first."""


class GroupSource:
    """Generates groups of rollouts, batch after batch, and says why there are too few usable ones.

    starts: where practice begins. rehearsal: starts of other tasks, mixed in as `rehearsal_share` of the groups.
    confirm: says which successes are to be believed, see `run_rollouts`. parts: of a mixture, see `StartSampler`.
    Every process draws the starts of all and takes its share, so any number of processes makes the same groups.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        module: nn.Module,
        environment: Environment,
        judge: Judge,
        starts: Sequence[Start],
        config: GRPOConfig,
        processes: Ranks,
        rehearsal: Sequence[Start] = (),
        confirm: Confirms | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        self.policy, self.module, self.environment, self.judge = policy, module, environment, judge
        self.config = config
        self.processes = processes
        self.sampler = StartSampler(starts, derive_seed(config.seed, 0), config.curriculum, parts)
        self._rehearsal = StartSampler(rehearsal, derive_seed(config.seed, "rehearsal")) if rehearsal else None
        self._confirm = confirm
        steps = config.branch_chunks * policy.chunk_length
        self._branches = BranchPool(steps, config.horizon, derive_seed(config.seed, "branches"))
        self.batch = 0
        self.example: Rollout | None = None
        """One of the latest rollouts, a successful one where there is one, to look at."""
        self.hindrance = ""
        """Why the last batch taught nothing, and what to change; empty where it did."""
        self.fruitless = 0
        """Batches in a row without a usable group."""
        self.show: Callable[[list[Rollout]], None] | None = None
        """Called with the rollouts of each batch, `films` of which have their pictures, where somebody watches."""
        self.films = 0
        self._judged = False
        """Whether the judge has given a verdict since this source was made."""

    def generate(
        self,
        version: int,
        carried: int,
        tick: Callable[[], None] | None = None,
        late: Callable[[], bool] | None = None,
    ) -> Generation:
        """Roll out and score batches until, with `carried` groups from before, there are enough usable ones.

        version: updates before these rollouts.

        Raises, in every process: BudgetSpent when after a batch too few are there and `late` is true in one;
        NothingToLearn when the last `give_up_after` batches had none, or when the judge has never given a verdict.
        """
        generation = Generation()
        while True:
            self._generate_batch(generation, version, tick)
            over = late is not None and late()
            available, spent = self.processes.sum(carried + len(generation.usable), float(over))
            if available >= self.config.min_groups:
                return generation
            if spent:
                raise BudgetSpent

    def _generate_batch(self, generation: Generation, version: int, tick: Callable[[], None] | None) -> None:
        chosen = self._choose()
        own = range(len(chosen))[self.processes.rank :: self.processes.size]
        rollouts = self._roll_out({number: chosen[number] for number in own}, tick)
        everyone = [one for number in own for one in rollouts[number]]
        self.example = max(everyone, key=lambda one: one.reward if math.isfinite(one.reward) else -1.0, default=None)
        generation.rehearsed = (
            [one for number in own if chosen[number].sampler is self._rehearsal for one in rollouts[number]]
            if self._rehearsal is not None
            else []
        )
        usable = 0
        told: dict[int, np.ndarray] = {}
        for number in own:
            kept = generation.add(Group(tuple(rollouts[number]), version))
            told[number] = kept.rewards
            if (hindered := self.hindered(kept)) is None:
                generation.usable.append(kept)
                usable += 1
            else:
                generation.unusable[hindered] += 1
        everywhere = {number: rewards for some in self.processes.gather(told) for number, rewards in some.items()}
        for number, one in enumerate(chosen):
            if one.sampler is not None:
                one.sampler.record(one.index, everywhere[number])
        self._keep_states(chosen, rollouts)
        generation.n_usable += usable
        generation.batches += 1
        self.batch += 1
        self._judged = self._judged or version > 0 or any(map(len, everywhere.values()))
        self._take_stock(generation, usable)

    def _choose(self) -> list[Chosen]:
        """The starts of one batch, for all processes: rehearsal first, then branches, then start frames."""
        config, count = self.config, self.config.groups
        chosen: list[Chosen] = []
        if self._rehearsal is not None:
            n_rehearsal = min(count - 1, round(count * config.rehearsal_share))
            chosen += [
                Chosen(self._rehearsal.starts[index], self._rehearsal, index)
                for index in self._rehearsal.draw(self.batch, n_rehearsal)
            ]
        n_branches = min(count - len(chosen) - 1, round(count * config.branch_share))
        if n_branches > 0:
            chosen += [Chosen(start) for start in self._branches.draw(self.batch, n_branches)]
        return chosen + [
            Chosen(self.sampler.starts[index], self.sampler, index)
            for index in self.sampler.draw(self.batch, count - len(chosen))
        ]

    def _roll_out(self, chosen: Mapping[int, Chosen], tick: Callable[[], None] | None) -> dict[int, list[Rollout]]:
        """The rollouts of each group, by its number in the batch."""
        found: dict[int, list[Rollout]] = {}
        with in_step(self.processes, self.module):
            for horizon, branches in ((self.config.horizon, False), (self._branches.steps, True)):
                numbers = [number for number, one in chosen.items() if one.is_branch == branches]
                if numbers:
                    found |= self._roll_out_groups({number: chosen[number].start for number in numbers}, horizon, tick)
        return found

    def _roll_out_groups(
        self, begun: Mapping[int, Start], horizon: int, tick: Callable[[], None] | None
    ) -> dict[int, list[Rollout]]:
        starts: list[Start] = []
        seeds: list[int] = []
        for number, start in begun.items():
            own_starts, own_seeds = self._members(start, number)
            starts += own_starts
            seeds += own_seeds
        config = self.config
        options = RolloutOptions(
            horizon, config.temperature, progress_credit=config.progress_credit, films=self.films if self.show else 0
        )
        rollouts = run_rollouts(self.policy, self.environment, self.judge, starts, seeds, options, tick, self._confirm)
        if self.show is not None:
            self.show(rollouts)  # groups are carried over and saved without the pictures
            rollouts = [dataclasses.replace(one, video=None) if one.video is not None else one for one in rollouts]
        size = self.config.group_size
        return {number: rollouts[place * size : (place + 1) * size] for place, number in enumerate(begun)}

    def _members(self, start: Start, number: int) -> tuple[list[Start], list[int]]:
        """The starts of a group's rollouts, and the seeds their actions are sampled with."""
        config = self.config
        group_seed = derive_seed(config.seed, "group", 0, self.batch, number)
        if start.frame is None:  # a station's reset is part of the start: keep its seed
            starts = [start] * config.group_size
        else:
            starts = group_starts(start, config.group_size, group_seed, config.common_noise)
        return starts, [derive_seed(group_seed, "policy", member) for member in range(config.group_size)]

    def _keep_states(self, chosen: Sequence[Chosen], rollouts: Mapping[int, Sequence[Rollout]]) -> None:
        """Remember states of this batch that branches may begin in: one of each group that began at a start frame."""
        if not self.config.branch_share:
            return
        firsts = {
            number: self._branches.states_of(rollouts[number][:1], derive_seed(self.batch, number))
            for number in rollouts
            if chosen[number].sampler is self.sampler
        }
        everywhere = {number: states for some in self.processes.gather(firsts) for number, states in some.items()}
        self._branches.add([start for number in sorted(everywhere) for start in everywhere[number]])

    def _take_stock(self, generation: Generation, usable: int) -> None:
        """Warn, or give up, where batches have no usable group. Raises: NothingToLearn."""
        config = self.config
        (everywhere,) = self.processes.sum(usable)
        self.fruitless = 0 if everywhere else self.fruitless + 1
        self.hindrance = self._advice(generation) if self.fruitless else ""
        if not self._judged:
            raise NothingToLearn
        if self.fruitless and self.fruitless % config.warn_after == 0 and self.processes.first:
            console.print(
                f"warning: no usable group in the last {self.fruitless} batches; {self.hindrance}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        if self.fruitless >= config.give_up_after:
            raise NothingToLearn

    def hindered(self, group: Group) -> str | None:
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
        abstentions: Counter[str] = sum(self.processes.gather(generation.reasons), Counter())
        advice = dict(ADVICE)
        for words, count in abstentions.most_common(1):
            advice["unjudged"] += f" ({count} of {abstentions.total()} abstentions: {one_line(words, 400)})"
        first, *others = reasons.most_common()
        told = [advice[first[0]], *(f"{count} groups otherwise: {advice[reason]}" for reason, count in others)]
        return "; ".join(told)

    def state(self) -> dict[str, Any]:
        """What this process's samplers remember, for a checkpoint."""
        rehearsal = self._rehearsal.state() if self._rehearsal is not None else None
        return {"sampler": self.sampler.state(), "rehearsal": rehearsal, "branches": self._branches.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises: DataError when the checkpoint knew other starts."""
        self.sampler.load_state(state["sampler"])
        if self._rehearsal is not None and state["rehearsal"] is not None:
            self._rehearsal.load_state(state["rehearsal"])
        self._branches.load_state(state.get("branches", {"starts": []}))

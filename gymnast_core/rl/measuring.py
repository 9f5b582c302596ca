"""A policy measured in imagination, before, between and after the updates: always on the same seeds."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.sharding import in_step
from gymnast_core.protocols import Environment, Judge, Start
from gymnast_core.ranks import Ranks
from gymnast_core.rl.adapt_page import SHOWN
from gymnast_core.rl.adapt_result import MIN_PAIRS
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.rollout import Rollout, changed_share, mean_success, measure
from gymnast_core.seeds import derive_seed


@dataclass(frozen=True)
class Scorer:
    """Who scores imagined rollouts, and what a success must survive before it counts; None: nothing."""

    judge: Judge
    confirm: Confirms | None = None


class Measuring:
    """Measures `policy` in `environment`, by the rollouts of all processes together.

    starts: where the practised task begins; others: where the station's other tasks do, none where they are unknown.
    practice and gate: who scores in validations, and before and after. temperature: None acts greedily.
    """

    def __init__(
        self,
        policy: OpenVLAPolicy,
        environment: Environment,
        starts: Sequence[Start],
        others: Sequence[Start],
        practice: Scorer,
        gate: Scorer,
        ranks: Ranks,
        horizon: int,
        temperature: float | None,
        seed: int,
    ) -> None:
        self.policy, self.environment = policy, environment
        self.starts, self.others = starts, others
        self.practice, self.gate = practice, gate
        self._ranks, self._horizon, self._temperature, self._seed = ranks, horizon, temperature, seed
        self._base_others = math.nan

    def task(self, count: int) -> list[Rollout]:
        """`count` rollouts of the practised task, on seeds that training never sees, scored for the gate."""
        return self._imagine(self.gate, self.starts, count, "gate", True)

    def other_tasks(self, count: int) -> list[Rollout]:
        """At least `count` such rollouts of each other task; none where there are no starts."""
        if not self.others:
            return []
        tasks = len({start.instruction for start in self.others})
        return self._imagine(self.gate, self.others, max(MIN_PAIRS, count) * tasks, "gate of others", True)

    def way(self, count: int) -> list[Rollout]:
        """`count` rollouts of the practised task on seeds that neither training nor the gate sees, all their pictures
        with them."""
        return self._imagine(self.practice, self.starts, count, "way", video=True, whole=True)

    def begin_validation(self, count: int) -> float:
        """Measure the base on the seeds of `validate`; the share of its actions that the safety envelope changed."""
        safety = self.validate(count)[1]
        self._base_others = self._validate_others(count)
        return safety

    def validate(self, count: int) -> tuple[float, float, float]:
        """Of the policy as it is: success (NaN where the judge abstains), share of changed actions, and by how much
        its success at other tasks is below the base's."""
        drawn = self._imagine(self.practice, self.starts, count, "validation")
        fall = self._base_others - self._validate_others(count) if math.isfinite(self._base_others) else 0.0
        return mean_success(drawn), changed_share(drawn), max(0.0, fall) if math.isfinite(fall) else 0.0

    def _validate_others(self, count: int) -> float:
        """Mean success at other tasks; NaN where there are none, or nothing could be judged."""
        if not self.others:
            return math.nan
        return mean_success(
            self._imagine(self.practice, self.others, max(MIN_PAIRS, count // 2), "validation of others")
        )

    def _imagine(
        self, scorer: Scorer, starts: Sequence[Start], count: int, salt: str, video: bool = False, whole: bool = False
    ) -> list[Rollout]:
        """Each process its share of the rollouts; all of them in order, the same in every process.

        salt: which seeds; the same ones every time. whole: with the pictures of all of them."""
        ranks = self._ranks
        with in_step(ranks, self.policy.model):
            drawn = measure(
                self.policy,
                self.environment,
                scorer.judge,
                starts,
                count,
                self._horizon,
                self._temperature,
                derive_seed(self._seed, salt),
                video=video,
                part=range(count)[ranks.rank :: ranks.size],
                confirm=scorer.confirm,
            )
        shares = ranks.gather(_without_films(drawn) if whole else _with_few_pictures(drawn))
        return [shares[i % ranks.size][i // ranks.size] for i in range(count)]


def _without_films(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts, with what the policy saw alone."""
    return [dataclasses.replace(rollout, video=None) for rollout in rollouts]


def _with_few_pictures(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts, with pictures only where the report may show them: the first few of either kind."""
    shown: Counter[bool] = Counter()
    told = []
    for rollout in rollouts:
        good = rollout.reward >= 0.5
        shown[good] += 1
        if shown[good] > SHOWN:
            rollout = dataclasses.replace(rollout, frames=rollout.frames[:0], video=None)
        told.append(rollout)
    return told

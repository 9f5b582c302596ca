"""Look before acting: imagine what candidate chunks lead to, and do the first chunk of the best (World-Gymnast,
arXiv 2602.02454, sections 3.4 and 6).

From the live frame the policy's greedy chunk and `rollouts` sampled ones are each rolled on in imagination, the greedy
one greedily and the others sampled, and a judge scores the results. The best one's chunk is returned; at the next chunk
all of this happens anew from the frame that really came.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from gymnast_core.config import LookAheadConfig
from gymnast_core.errors import ConfigError
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.protocols import Environment, Judge, Policy, Start, TrainablePolicy
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.rollout.open import open_imagination
from gymnast_core.rollout.rollout import Rollout, RolloutOptions, run_rollouts
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile, open_station

SAME_CONFIDENCE = 0.1
"""Confidences are compared in steps of this size: a judge's last decimals do not outweigh finishing sooner."""


class LookAheadPolicy:
    """A policy that chooses among its own chunks by their imagined outcome.

    policy: proposes and, in imagination, goes on. imagination: rolled out from the live frames, all observations and
    candidates in one batch (cut at its max_rollouts). judge: scores. options: how many candidates, how far, how varied.
    arm: tells imagination where the chunks done so far have brought the arm from the station's start position, for
    those who do not measure (`place`); without either every chunk counts as from there.

    Row i of call c since `begin(seed)` depends on (seed, c, i) and the weights alone. With rollouts = 0 it is the
    policy's greedy action, and nothing is imagined.

    Raises: ConfigError when rollouts > 0 and the policy cannot sample.
    """

    def __init__(
        self,
        policy: Policy,
        imagination: Environment,
        judge: Judge,
        options: LookAheadConfig,
        seed: int = 0,
        arm: DeadReckoning | None = None,
    ) -> None:
        if options.rollouts and not isinstance(policy, TrainablePolicy):
            raise ConfigError(
                f"look_ahead.rollouts: found {options.rollouts}, but {type(policy).__name__} cannot sample; needed 0"
            )
        self.policy = policy
        self._imagination = imagination
        self.judge = judge
        self._options = options
        self._arm = arm
        self.begin(seed)

    @property
    def chunk_length(self) -> int:
        return self.policy.chunk_length

    @property
    def candidates(self) -> int:
        """Sampled candidates beside the greedy one, before each chunk."""
        return self._options.rollouts

    def begin(self, seed: int) -> None:
        """Start an episode; `seed` decides its candidates and the imagination's noise."""
        self._seed, self._call = seed, 0
        self._positions: list[np.ndarray] = []

    def place(self, positions: np.ndarray) -> None:
        """Where the end effectors are in the frames to come, (N, 3) metres, base frame, as measured."""
        self._positions = list(np.array(positions, dtype=np.float64))

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """The best candidate's chunk (N, K, 7) for frames (N, H, W, 3); greedy where the judge abstains on all.

        Raises: what policy, imagination and judge raise.
        """
        count = self._options.rollouts
        if count == 0:
            return self.policy.act(frames, instructions)
        call = self._call
        self._call += 1
        if self._arm is not None and len(self._positions) != len(frames):
            self._positions = [self._arm.begin() for _ in frames]
        positions = self._positions  # kept here: another thread may begin an episode meanwhile
        starts, seeds = [], []
        for row, (frame, instruction) in enumerate(zip(frames, instructions)):
            position = positions[row].tolist() if positions else None
            own = derive_seed(self._seed, "look ahead", call, row)
            for member in range(1 + count):  # the greedy one is first: it wins where nothing is better
                noise = derive_seed(own, "noise", member)
                starts.append(Start(instruction, frame, seed=noise, position=position))
                seeds.append(derive_seed(own, "policy", member) if member else None)
        horizon = max(self._options.horizon, self.chunk_length)
        options = RolloutOptions(
            horizon, self._options.temperature, stop_at_success=False, keep_frames=False, act_on_start=True
        )
        rollouts = run_rollouts(self.policy, self._imagination, self.judge, starts, seeds, options)
        groups = [rollouts[begin : begin + 1 + count] for begin in range(0, len(rollouts), 1 + count)]
        chunks = np.stack([best(group, self.judge).actions[: self.chunk_length] for group in groups])
        if self._arm is not None:
            for row, chunk in enumerate(chunks):
                for action in chunk:
                    _, positions[row], _ = self._arm.follow(positions[row], action)
        return chunks


def best(rollouts: Sequence[Rollout], judge: Judge) -> Rollout:
    """The first of the rollouts with the highest score; an abstention never wins over a score.

    Equal scores: the one that came farther, where the judge tells progress; then the one the judge is surer was
    completed, or less sure was not (both in steps of `SAME_CONFIDENCE`); then the one completed earliest. The first one
    where the judge abstained on all.
    """

    def rank(rollout: Rollout) -> tuple[float, ...]:
        verdict = rollout.verdict
        if verdict is None or not np.isfinite(rollout.reward):
            return (-1.0,)
        sure = round(verdict.confidence / SAME_CONFIDENCE)
        told = verdict.progress[-1] if verdict.progress else 0.0
        come = round(told / SAME_CONFIDENCE) if np.isfinite(told) else 0
        shown = judge.frame_indices(len(rollout.actions) + 1)
        done = shown[verdict.completed_at] if verdict.completed_at is not None else len(rollout.actions) + 1
        return rollout.reward, come, sure if rollout.reward > 0.5 else -sure, -done

    return max(rollouts, key=rank)


def open_look_ahead(
    policy: Policy, station_file: str | os.PathLike[str], rollouts: int, device: str = "", run_folder: str = ""
) -> LookAheadPolicy:
    """`policy` with a station file's imagination, judge and `look_ahead` section, but this many candidates.

    device: instead of the file's. run_folder: where the raw answers of a judge behind an API are kept.

    Raises: ConfigError (the policy cannot sample, or no such model), CheckpointError (damaged), JudgeError (no key).
    """
    return LookAheads(open_station(str(station_file), device=device), run_folder).over(policy, rollouts)


class LookAheads:
    """The look-aheads of one station: its imagination and its judge, loaded once, before whichever policy acts.

    run_folder: where the raw answers of a judge behind an API are kept.

    Raises: ConfigError (no such model, a judge that imagination has none of), CheckpointError, JudgeError.
    """

    def __init__(self, station: StationFile, run_folder: str = "") -> None:
        from gymnast_core.reward.factory import load_judge

        config = station.config
        if config.judge.kind == "truth":
            raise ConfigError(
                f"{station.path}: judge.kind: found truth, but imagination has none; needed another judge to look ahead"
            )
        self.judge = load_judge(config, station.path, run_folder or None)
        self._imagination, self._options = open_imagination(station), config.look_ahead
        self._arm = DeadReckoning(config.arm, config.safety)

    def over(self, policy: Policy, rollouts: int) -> LookAheadPolicy:
        """`policy` with this many candidates. Raises: ConfigError where it cannot sample."""
        options = dataclasses.replace(self._options, rollouts=rollouts)
        return LookAheadPolicy(policy, self._imagination, self.judge, options, arm=self._arm)


class ActingPolicies:
    """The policies of a station as they act: by their names (`policy.names`), behind a look-ahead where the name or the
    station file asks for one. answers: where the raw answers of a judge behind an API are kept."""

    def __init__(self, station: StationFile, policies: StationPolicies, answers: str) -> None:
        self._station, self._policies, self._answers = station, policies, answers
        self._looks: LookAheads | None = None

    def choose(self, name: str) -> Policy:
        """The policy of that name, ready to act. Raises: see `StationPolicies.choose` and `LookAheads`."""
        policy, count = self._policies.choose(name), self._policies.candidates(name)
        if not count:
            return policy
        if self._looks is None:
            self._looks = LookAheads(self._station, self._answers)
        return self._looks.over(policy, count)

    def candidates(self, name: str) -> int:
        """How many candidates it imagines before each chunk; 0: it does not look ahead."""
        return self._policies.candidates(name)

    @property
    def judge(self) -> Judge | None:
        """The judge of the look-aheads, once one is loaded."""
        return None if self._looks is None else self._looks.judge

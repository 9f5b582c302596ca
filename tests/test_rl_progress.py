"""Progress as partial credit: only where a recipe asks for it, never success, never an abstention's, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.errors import ConfigError
from gymnast_core.protocols import Start, Verdict
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.rl.advantages import chunk_advantages, progress_advantages
from gymnast_core.rl.checkpoint import group_from_state, group_state
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.practice import check_progress
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rl.update import trajectories_of
from gymnast_core.rollout.rollout import Group, Rollout, RolloutOptions, run_rollouts
from gymnast_core.run_folder import RunFolder
from tests.point_world import INSTRUCTIONS, PointEnvironment, PointPolicy, locate, point_starts

CONFIG = GRPOConfig(groups=4, min_groups=1, group_size=6, horizon=9, temperature=1.0, learning_rate=5e-3)


class FarJudge:
    """Looks how far right the dot is in every third frame; nobody ever reaches its goal. Odd ones: see `blind`."""

    name = "far"
    tells_progress = True

    def __init__(self, goal: float = 2.0, frames: bool = True, blind: float = 0.0) -> None:
        self.goal, self.frames, self.blind = goal, frames, blind

    def frame_indices(self, n_frames: int) -> list[int]:
        return sorted({*range(0, n_frames, 3), n_frames - 1})

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [self._verdict(locate(video)[:, 0]) for video in videos]

    def _verdict(self, places: np.ndarray) -> Verdict:
        if places[-1] < self.blind:
            return Verdict(None, 0.0, "too far left to see")
        told = tuple(np.clip(places, 0, 1).tolist()) if self.frames else (float(np.clip(places[-1], 0, 1)),)
        return Verdict(float(places[-1] > self.goal), 1.0, "", progress=told)


def roll(judge: Any, credit: float, count: int = 6, horizon: int = 9) -> list[Rollout]:
    starts = [Start(INSTRUCTIONS[0], point_starts(1)[0].frame, seed=i) for i in range(count)]
    options = RolloutOptions(horizon, 1.0, progress_credit=credit)
    return run_rollouts(PointPolicy(), PointEnvironment(), judge, starts, list(range(count)), options)


def test_without_being_asked_for_progress_changes_no_bit_of_a_training(tmp_path: Path) -> None:
    class Silent(FarJudge):
        def _verdict(self, places: np.ndarray) -> Verdict:
            return replace(super()._verdict(places), progress=())

    def train(judge: FarJudge, name: str) -> tuple[list[dict[str, float]], list[bytes]]:
        policy = PointPolicy()
        run = RunFolder(tmp_path / name, None, False)
        trainer = GRPOTrainer(policy, policy, PointEnvironment(), judge, point_starts(4), CONFIG, run)
        metrics = [trainer.step() for _ in range(3)]
        kept = [{k: v for k, v in one.items() if not k.startswith("seconds")} for one in metrics]
        return kept, [parameter.detach().numpy().tobytes() for parameter in policy.parameters()]

    assert train(FarJudge(0.55), "with") == train(Silent(0.55), "without")


def test_credit_is_a_share_of_progress_and_leaves_success_and_abstentions_as_they_are() -> None:
    plain = roll(FarJudge(0.5, blind=0.42), 0.0, 40)
    for share in (0.5, 1.0):
        given_credit = roll(FarJudge(0.5, blind=0.42), share, 40)
        assert [one.completed for one in plain] == pytest.approx([one.completed for one in given_credit], nan_ok=True)
        kinds = set()
        for before, after in zip(plain, given_credit):
            kinds.add(str(before.completed))
            assert before.verdict is not None and after.verdict is not None and after.verdict.progress is not None
            if before.completed == 0.0:
                assert after.reward == pytest.approx(share * before.verdict.progress[-1]) and after.reward < 1
            else:
                assert (after.reward == before.reward) or (math.isnan(after.reward) and math.isnan(before.reward))
        assert kinds == {"0.0", "1.0", "nan"}


def test_an_unfinished_rollout_is_never_worth_success_and_broken_progress_is_worth_nothing() -> None:
    class Odd(FarJudge):
        def __init__(self, score: float, *told: float) -> None:
            super().__init__()
            self.said = Verdict(score, 1.0, "", progress=told)

        def _verdict(self, places: np.ndarray) -> Verdict:
            return self.said

    for told, reward in (((1.0,), 0.99), ((7.0,), 0.99), ((-3.0,), 0.0), ((math.nan,), 0.0), ((0.2, math.inf), 0.0)):
        (one,) = roll(Odd(0.0, *told), 1.0, 1)
        assert one.reward == reward and one.completed == 0.0
    assert roll(Odd(0.5, 0.2), 1.0, 1)[0].reward == 0.5, "half a point stays half a point"


def test_progress_is_known_at_the_beginning_of_each_chunk_and_survives_a_checkpoint() -> None:
    rollouts = roll(FarJudge(), 1.0)
    for one in rollouts:
        assert one.progress is not None and len(one.progress) == len(one.mask) == 3
        assert one.progress == pytest.approx(locate(one.frames)[:, 0], abs=1e-5), "chunks begin where it looked"
    again = group_from_state(group_state(Group(tuple(rollouts))))
    for one, other in zip(rollouts, again.rollouts):
        assert other.progress is not None and np.array_equal(one.progress, other.progress)  # type: ignore[arg-type]
    old = group_state(Group(tuple(rollouts)))
    for entry in old["rollouts"]:
        del entry["progress"]
    assert all(one.progress is None for one in group_from_state(old).rollouts)


def test_chunks_are_compared_by_what_was_reached_after_them_where_that_is_asked_for() -> None:
    group = Group(tuple(roll(FarJudge(), 1.0)))
    alive = np.ones((6, 3), dtype=bool)
    progress = np.stack([one.progress for one in group.rollouts if one.progress is not None])
    by_chunk = trajectories_of([group], replace(CONFIG, progress_credit=1.0, progress_by="chunk"))
    expected = progress_advantages(group.rewards, progress, alive)
    assert np.array_equal(np.stack([one.advantages for one in by_chunk]), expected)
    by_rollout = np.stack([one.advantages for one in trajectories_of([group], replace(CONFIG, progress_credit=1.0))])
    assert np.array_equal(by_rollout, chunk_advantages(group.rewards, alive)) and not np.allclose(by_rollout, expected)
    ends = Group(tuple(roll(FarJudge(frames=False), 1.0)))
    only_ends = trajectories_of([ends], replace(CONFIG, progress_credit=1.0, progress_by="chunk"))
    assert all(np.ptp(one.advantages) == 0 for one in only_ends), "who tells the end alone is compared by it"


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=2, max_size=5))
def test_what_chunks_gain_adds_up_to_the_rollout_and_a_chunk_alone_has_no_advantage(steps: list[list[float]]) -> None:
    path = np.array(steps)
    rewards, progress = path[:, -1], path[:, :-1]
    alive = np.ones(progress.shape, dtype=bool)
    alive[0, 1:] = False
    advantages = progress_advantages(rewards, progress, alive, epsilon=1.0)
    assert (advantages[0, 1:] == 0).all() and np.allclose(advantages.sum(axis=0), 0, atol=1e-5)
    gains = np.diff(path, axis=1)
    whole = progress_advantages(rewards, np.zeros_like(progress), np.ones_like(alive), epsilon=1.0)
    shaped = progress_advantages(rewards, progress, np.ones_like(alive), epsilon=1.0)
    scale = rewards.std(ddof=1) + 1.0
    for chunk in range(3):
        rest = gains[:, chunk:].sum(axis=1)
        assert shaped[:, chunk] == pytest.approx((rest - rest.mean()) / scale, abs=1e-5)
    assert whole[:, 0] == pytest.approx(chunk_advantages(rewards, alive, epsilon=1.0)[:, 0], abs=1e-5)
    if len(path) == 2:
        assert (advantages[:, 1:] == 0).all()


@pytest.mark.parametrize("by", ["rollout", "chunk"])
def test_progress_teaches_where_every_rollout_fails(tmp_path: Path, by: str) -> None:
    config = replace(CONFIG, progress_credit=1.0, progress_by=by, learning_rate=1e-2)
    policy = PointPolicy()
    starts = [Start(INSTRUCTIONS[0], start.frame) for start in point_starts(4)]
    trainer = GRPOTrainer(
        policy, policy, PointEnvironment(), FarJudge(), starts, config, RunFolder(tmp_path, None, False)
    )
    metrics = [trainer.step() for _ in range(12)]
    assert all(one["success/move_the_dot_right"] == 0 and one["usable_groups"] == 1.0 for one in metrics)
    assert np.mean([one["mean_reward"] for one in metrics[-3:]]) > metrics[0]["mean_reward"] + 0.04


def test_a_judge_that_tells_no_progress_is_refused_where_progress_is_to_be_rewarded() -> None:
    class Mute(FarJudge):
        name = "classifier"
        tells_progress = False

    check_progress(CONFIG, Mute())
    check_progress(replace(CONFIG, progress_credit=0.5), TruthJudge())
    with pytest.raises(ConfigError, match=r"progress_credit: found 0.5, but the classifier judge tells no progress"):
        check_progress(replace(CONFIG, progress_credit=0.5), Mute())

"""Practice may begin in states that imagination has reached: where they are, how far they go, and that it resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.protocols import Start, StepResult
from gymnast_core.rl.branches import CAPACITY, BranchPool
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rollout.rollout import RolloutOptions, run_rollouts
from gymnast_core.run_folder import RunFolder
from tests.point_world import PointEnvironment, PointJudge, PointPolicy, locate, point_starts

CONFIG = GRPOConfig(
    groups=6, min_groups=1, group_size=6, horizon=12, temperature=1.0, learning_rate=5e-3, checkpoint_every=1, seed=3,
    branch_share=0.5, branch_chunks=2,
)  # fmt: skip


def placed(count: int) -> list:  # type: ignore[type-arg]
    """Starts that know where the end effector is: here, where the dot is, at height 0."""
    return [
        dataclasses.replace(start, position=(*locate(start.frame).tolist(), 0.0))  # type: ignore[arg-type]
        for start in point_starts(count)
    ]


@given(steps=st.integers(1, 20), horizon=st.integers(3, 15), seed=st.integers(0, 99))
def test_a_branch_begins_where_its_rollout_was_and_keeps_within_the_horizon(
    steps: int, horizon: int, seed: int
) -> None:
    policy, environment = PointPolicy(seed % 5), PointEnvironment(noise=0.0)
    rollouts = run_rollouts(policy, environment, PointJudge(), placed(4), [seed] * 4, RolloutOptions(horizon, 1.0))
    pool = BranchPool(steps, horizon, seed)
    states = pool.states_of(rollouts, batch=seed)
    again = pool.states_of(rollouts, batch=seed)
    assert [(state.seed, state.position) for state in again] == [(state.seed, state.position) for state in states]
    for state in states:
        rollout = next(one for one in rollouts if any(np.array_equal(state.frame, frame) for frame in one.frames))
        chunk = next(n for n, frame in enumerate(rollout.frames) if np.array_equal(frame, state.frame))
        assert chunk > 0 and 3 * chunk + pool.steps <= horizon
        assert state.position is not None and state.frame is not None
        walked = rollout.executed[: 3 * chunk, :3].sum(axis=0)
        np.testing.assert_allclose(np.subtract(state.position, rollout.start.position), walked, atol=1e-6)
        inside = all(0.06 < value < 0.94 for value in state.position[:2])
        if inside:  # the picture shows it there
            np.testing.assert_allclose(locate(state.frame), state.position[:2], atol=0.03)
    if pool.steps + 3 > horizon:
        assert not states, "there is no room behind the first chunk"


def test_the_pool_is_bounded_and_goes_through_a_checkpoint() -> None:
    pool = BranchPool(6, 12, 0)
    starts = placed(6)
    for _ in range(100):
        pool.add(starts)
    assert len(pool) == CAPACITY
    other = BranchPool(6, 12, 0)
    other.load_state(pool.state())
    for batch in range(3):
        for one, two in zip(pool.draw(batch, 5), other.draw(batch, 5), strict=True):
            assert np.array_equal(one.frame, two.frame) and one.position == two.position
    assert len(BranchPool(6, 12, 0).draw(0, 5)) == 0


class Counting(PointEnvironment):
    """How many chunks each batch of rollouts took, and how many rollouts it had."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[tuple[int, int]] = []

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        self.chunks.append((len(starts), 0))
        return super().reset(starts)

    def step(self, actions: np.ndarray) -> StepResult:
        rollouts, chunks = self.chunks[-1]
        self.chunks[-1] = (rollouts, chunks + 1)
        return super().step(actions)


def build(folder: Path) -> GRPOTrainer:
    policy = PointPolicy()
    return GRPOTrainer(policy, policy, Counting(), PointJudge(), placed(4), CONFIG, RunFolder(folder))


def test_practice_with_branches_goes_on_after_a_stop_as_if_there_had_been_none(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    for _ in range(4):
        whole.step()
    cut = build(tmp_path / "cut")
    for _ in range(2):
        cut.step()
    again = build(tmp_path / "cut")
    for _ in range(2):
        again.step()
    assert again.update == whole.update == 4
    one, two = whole.weights(), again.weights()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert isinstance(whole.environment, Counting)
    first, *later = whole.environment.chunks
    assert first == (36, 4), "there is no state to begin in before the first rollouts"
    assert later[-2:] == [(18, 4), (18, 2)], "then half of the groups are branches, of two chunks"

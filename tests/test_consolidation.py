"""The end of practice takes back what practice cost other tasks, and keeps what it taught."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gymnast_core.config import StationConfig, TaskConfig
from gymnast_core.data.episode import Episode, write_episode
from gymnast_core.protocols import Start, Verdict
from gymnast_core.ranks import Ranks
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.consolidation import NEAR_GREEDY, Consolidation, Views, views_of_successes
from gymnast_core.rl.other_tasks import find_other_views
from gymnast_core.rl.weights import TrainedWeights
from gymnast_core.rollout.rollout import Rollout
from tests.point_world import INSTRUCTIONS, PointPolicy, render

CONFIG = GRPOConfig(learning_rate=5e-3, micro_batch=8, consolidation_steps=60, seed=3)


def seen(instruction: str, seed: int, count: int = 40) -> Views:
    """Pictures of dots anywhere."""
    return Views(render(np.random.default_rng(seed).random((count, 2))), (instruction,) * count)


def greedy(policy: PointPolicy, views: Views) -> np.ndarray:
    return policy.sample(views.frames, views.instructions, NEAR_GREEDY, [0] * len(views)).tokens


@pytest.fixture
def practised() -> tuple[PointPolicy, TrainedWeights, dict[str, torch.Tensor]]:
    """A policy after a practice that changed everything it does, and its weights of before."""
    policy = PointPolicy(seed=1)
    weights = TrainedWeights(policy, CONFIG, Ranks(), "here")
    before = weights.copy()
    weights.put({name: value + 0.3 * torch.randn_like(value) for name, value in before.items()})
    return policy, weights, before


def test_other_tasks_are_acted_on_as_before_and_the_practised_one_as_taught(practised: tuple) -> None:
    policy, weights, before = practised
    learned, others = seen(INSTRUCTIONS[0], 1), seen(INSTRUCTIONS[1], 2)
    taught = greedy(policy, learned)
    with weights.exchanged(before):
        base = greedy(policy, others)
    spoiled = float((greedy(policy, others) == base).mean())
    kept = Consolidation(policy, weights, before, CONFIG, Ranks())(learned, others)
    assert (kept.pictures, kept.before) == (40, spoiled) and spoiled < 0.5
    assert float((greedy(policy, others) == base).mean()) == kept.after > 0.8
    assert float((greedy(policy, learned) == taught).mean()) > 0.8


def test_the_same_seed_gives_the_same_weights(practised: tuple) -> None:
    policy, weights, before = practised
    after = weights.copy()
    found = []
    for _ in range(2):
        weights.put(after)
        Consolidation(policy, weights, before, CONFIG, Ranks())(seen(INSTRUCTIONS[0], 1), seen(INSTRUCTIONS[1], 2, 5))
        found.append(weights.copy())
    assert all(torch.equal(found[0][name], found[1][name]) for name in before)


def test_successes_alone_teach_and_only_up_to_their_end() -> None:
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 4, 4, 3), np.uint8)
    mask = np.array([[True] * 7, [True] * 7, [False] * 7])

    def rollout(completed: bool | None) -> Rollout:
        verdict = Verdict(None if completed is None else float(completed), 1.0, "")
        none, flags = np.zeros((3, 7), np.float32), np.zeros(3, bool)
        tokens, truth = none.astype(np.int16), np.full(3, np.nan, np.float32)
        return Rollout(
            Start("open", None), frames, tokens, none, mask, none, none, 3, truth, math.nan, ((),) * 3, flags, verdict
        )

    found = views_of_successes([rollout(False), rollout(True), rollout(None)])
    assert found is not None and found.instructions == ("open", "open") and found.frames[:, 0, 0, 0].tolist() == [0, 1]
    assert views_of_successes([rollout(False)]) is None


def test_pictures_are_those_of_whole_episodes_of_other_tasks(tmp_path: Path) -> None:
    station = StationConfig(
        "lab", {"a": TaskConfig("open it"), "b": TaskConfig("close it"), "c": TaskConfig("lift it")}
    )

    def log(name: str, instruction: str, steps: int) -> None:
        frames = np.full((steps + 1, 32, 32, 3), steps, np.uint8)
        nothing, states = np.zeros((steps, 7), np.float32), np.zeros((steps + 1, 7), np.float32)
        stamps = np.arange(steps + 1) * 200_000_000
        write_episode(tmp_path / name, Episode(instruction, frames, nothing, nothing, states, stamps, None))

    assert find_other_views(station, "close it", "auto", tmp_path / "none", 16) is None
    for name, instruction, steps in (("1", "close it", 3), ("2", "open it", 4), ("3", "open it", 60), ("4", "fly", 5)):
        log(name, instruction, steps)
    found = find_other_views(station, "close it", "auto", tmp_path, 16)
    assert found is not None and set(found.instructions) == {"open it"}
    assert found.frames.shape == (44, 16, 16, 3), "4 of one and 40 of 60 of the other; the last picture had no action"
    assert find_other_views(station, "close it", "off", tmp_path, 16) is None
    named = find_other_views(station, "close it", str(tmp_path / "2"), tmp_path / "none", 16)
    assert named is not None and len(named) == 4

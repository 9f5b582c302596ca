"""Of all the updates of a practice the best one is taken, also after a kill."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from gymnast_core.errors import CheckpointError
from gymnast_core.rl.best_adapter import SOLVED_FOR, BestAdapter
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.practice import train_within
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder
from tests.point_world import PointEnvironment, PointJudge, PointPolicy, point_starts

CONFIG = GRPOConfig(
    groups=4, min_groups=1, group_size=8, horizon=9, temperature=1.0, learning_rate=5e-3, checkpoint_every=1, seed=3
)


def build(folder: Path) -> GRPOTrainer:
    policy = PointPolicy()
    return GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(4), CONFIG, RunFolder(folder))


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ([(0.5, 0.1, 0.0), (0.9, 0.2, 0.0), (0.4, 0.0, 0.0)], 2),
        ([(0.5, 0.1, 0.0), (0.9, 0.3, 0.0), (0.6, 0.2, 0.0)], 3),  # the second meets the envelope more than the base
        ([(0.7, 0.1, 0.0), (0.7, 0.1, 0.0), (math.nan, 0.0, 0.0)], 2),  # the latest of equals, no unjudged one
        ([(1.0, 0.0, 0.0), (0.97, 0.2, 0.0), (0.9, 0.0, 0.0)], 2),  # one failure in thirty is chance
        ([(0.9, 0.5, 0.0), (1.0, 0.3, 0.0), (1.0, 0.4, 0.0)], 2),  # none is safe: the safest
        ([(0.9, 0.1, 0.0), (1.0, 0.1, 0.3)], 1),  # what the other tasks lose is lost
    ],
)
def test_the_best_weights_come_back(measured: list[tuple[float, float, float]], expected: int, tmp_path: Path) -> None:
    trainer = build(tmp_path)
    answers = iter(measured)
    best = BestAdapter(trainer, lambda: next(answers), base_safety=0.2)
    kept = []
    for _ in measured:
        trainer.step()
        kept.append(trainer.weights())
        best()
    chosen = best.restore()
    assert chosen is not None and chosen.update == expected
    now = trainer.weights()
    assert all(torch.equal(now[name], value) for name, value in kept[expected - 1].items())
    assert any(not torch.equal(kept[0][name], value) for name, value in kept[1].items()), "the updates do something"


def test_a_run_killed_before_its_validation_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    updates = 1 + SOLVED_FOR

    def build_best(folder: Path) -> BestAdapter:
        trainer = build(folder)
        return BestAdapter(trainer, lambda: (0.98 if trainer.update > 1 else 0.9, 0.1, 0.0), base_safety=0.2)

    whole = build_best(tmp_path / "whole")
    for _ in range(updates):
        assert not whole.solved
        whole.trainer.step()
        whole()
    assert whole.solved
    first = build_best(tmp_path / "cut")
    first.trainer.step()
    first()
    first.trainer.step()  # killed here
    second = build_best(tmp_path / "cut")
    assert second.trainer.update == 2 and not second.solved
    for _ in range(updates - 2):
        second.trainer.step()
        second()
    assert second.history == whole.history and second.solved
    killed_when_solved = build_best(tmp_path / "cut")
    assert train_within(killed_when_solved.trainer, 100, 60.0, killed_when_solved.trainer.run, killed_when_solved) == (
        "solved"
    )
    assert killed_when_solved.trainer.update == updates, "nothing is practised beyond"
    assert second.restore() == whole.restore()
    expected = whole.trainer.weights()
    assert all(torch.equal(value, expected[name]) for name, value in second.trainer.weights().items())
    logged = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    validated = [line["validation_success"] for line in logged if "validation_success" in line]
    assert validated == [0.9] + SOLVED_FOR * [0.98]


def test_best_weights_that_are_not_those_on_record_are_named(tmp_path: Path) -> None:
    answers = iter([(0.9, 0.1, 0.0), (0.1, 0.1, 0.0), (1.0, 0.1, 0.0)])
    trainer = build(tmp_path)
    best = BestAdapter(trainer, lambda: next(answers))
    for _ in range(3):
        trainer.step()
        best()
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000003")  # lost; the weights that were best lie beside
    resumed = BestAdapter(build(tmp_path), lambda: (1.0, 0.1, 0.0))
    assert resumed.trainer.update == 2 and resumed.best is not None and resumed.best.update == 1
    with pytest.raises(CheckpointError, match="weights after update 3, the best on record are those after 1"):
        resumed.restore()
    resumed.trainer.step()
    resumed()
    assert resumed.restore() == best.restore()


def test_damaged_best_weights_are_named(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    answers = iter([(0.9, 0.1, 0.0), (0.1, 0.1, 0.0)])
    best = BestAdapter(trainer, lambda: next(answers))
    for _ in range(2):
        trainer.step()
        best()
    (tmp_path / "best.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        best.restore()

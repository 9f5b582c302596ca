"""A fine-tuning takes as long as its data and its model's size are worth, where nobody says how long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.config import PACKAGE_ROOT, load_config
from gymnast_core.data.episode import Episode, write_episode
from gymnast_core.errors import ConfigError
from gymnast_core.world_model.config import WorldModelConfig
from gymnast_core.world_model.finetune import settle
from gymnast_core.world_model.finetune_config import FinetuneConfig
from gymnast_core.world_model.finetune_steps import PASSES, most_steps, usual_steps
from gymnast_core.world_model.train_config import TrainConfig

RECIPES = PACKAGE_ROOT / "world_model" / "recipes"


def write_episodes(folder: Path, count: int, steps: int) -> None:
    frames = np.zeros((steps + 1, 16, 16, 3), np.uint8)
    actions, states = np.zeros((steps, 7), np.float32), np.zeros((steps + 1, 7), np.float32)
    for number in range(count):
        stamps = np.arange(steps + 1, dtype=np.int64)
        write_episode(folder / f"{number:03d}", Episode("open", frames, actions, actions, states, stamps))


def test_steps_follow_the_data_and_the_size_and_the_papers_number_is_in_its_recipe(tmp_path: Path) -> None:
    write_episodes(tmp_path / "new", 4, 9)
    write_episodes(tmp_path / "old", 8, 9)
    new, old = str(tmp_path / "new"), str(tmp_path / "old")
    tiny = WorldModelConfig(4, 4, 32, 1, 2, max_frames=6)
    mini = WorldModelConfig(6, 4, 128, 4, 4, max_frames=16)
    assert usual_steps((new,), 0.0, mini, 2, 4) == PASSES * 40 / 8
    assert usual_steps((f"{new}@4", old), 0.0, mini, 2, 4) == PASSES * (40 + 80 / 4) / 8
    assert usual_steps((new,), 0.0, mini, 16, 16) < usual_steps((new, old), 0.0, tiny, 2, 4) < most_steps(mini)
    assert usual_steps((f"{old}@0.5", new), 0.0, tiny, 2, 4) == PASSES * (40 + 80 / 2) / 8
    full = load_config(TrainConfig, RECIPES / "paper.yaml").model
    assert most_steps(full) == 120_000 and 3200 < most_steps(mini) < 10_000
    own = {"data": (new,), "init": "mini/world_model", "held_out": 0.0}
    paper = load_config(FinetuneConfig, RECIPES / "paper_dyna.yaml", own)
    assert settle(paper).steps == 120_000 and settle(paper).warmup == 500
    assert settle(replace(paper, steps=0)).steps == 20 and settle(replace(paper, steps=0)).warmup == 2
    with pytest.raises(ConfigError, match="steps is 0, must be at least 1"):
        TrainConfig(steps=0)

"""`gymnast world-model finetune`: the trainer, set up for a station's own logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gymnast_core.config import NotNegative, find_model, parse_config
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.progress import console
from gymnast_core.world_model.checkpoint import SamplingConfig
from gymnast_core.world_model.model import WorldModelConfig
from gymnast_core.world_model.train import TrainConfig, Training, train

SHARE = 0.25
"""Of the learning rate of the training that came before."""


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Fine-tuning of a world model on episodes of one's own station, from `init`.

    The defaults are those of World-Gymnast's Dyna update, about 100 trajectories a task and 120 000 steps, with a
    quarter of the learning rate of WorldGym's training and a warm-up, because the optimiser starts without its
    averages. Mix the old data in with a weight (`--data LOGS@4 OLD@1`) to keep what the model knew.
    """

    COMMAND: ClassVar[str] = "gymnast world-model finetune"

    run: str = "runs/world_model/finetune"
    """Run folder; a second start in the same folder resumes. The result is its subfolder `model`."""
    steps: int = 120_000
    """Optimiser steps."""
    learning_rate: NotNegative = 0.0
    """The optimiser's, after warm-up; 0: a quarter of what `init` was trained with, of 8e-5 where it does not say."""
    warmup: int = 500
    """Steps of linear warm-up."""
    as_trained: bool = True
    """Loss, clip length, first action, action dropout, optimiser and sampling as `init` was trained with, where its
    folder says; otherwise as given here. A WorldGym checkpoint says nothing: the defaults are its own."""

    @property
    def full_learning_rate(self) -> float:
        return self.learning_rate / SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.init:
            raise ConfigError("init: nothing given, needed a world-model folder or a WorldGym checkpoint to start from")


def finetune(config: FinetuneConfig) -> int:
    """Train on from `init`; returns 0, or 130 when interrupted (start again to resume). Raises as `train` does."""
    return train(settle(config))


def settle(config: FinetuneConfig) -> FinetuneConfig:
    """The config with what `init` was trained with filled in, where that is wanted.

    Raises: ConfigError (no such model, bad values in it), CheckpointError (its config.json is unreadable).
    """
    folder = find_model(config.init)
    if not folder.is_dir():
        return replace(config, learning_rate=config.learning_rate or SHARE * TrainConfig.learning_rate)
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as a world model's config ({error})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: found {type(content).__name__}, needed a mapping")
    model = parse_config(WorldModelConfig, content.get("model", {}), str(path))
    made_by: Mapping[str, Any] = content["made_by"] if isinstance(content.get("made_by"), Mapping) else {}
    if "training" in made_by:
        training = parse_config(Training, made_by["training"], f"{path}: made_by.training")
    else:
        console.print(f"{folder}: does not say how it was trained; taken as WorldGym's training")
        training = Training(clip_frames=model.max_frames)
    config = replace(config, learning_rate=config.learning_rate or SHARE * training.learning_rate)
    if not config.as_trained:
        return config
    return replace(
        config,
        model=model,
        sampling=parse_config(SamplingConfig, content.get("sampling", {}), str(path)),
        loss=training.loss,
        clip_frames=min(training.clip_frames, model.max_frames),
        first_action_zero=training.first_action_zero,
        action_dropout=training.action_dropout,
        optimiser=training.optimiser,
    )

"""`gymnast world-model finetune`: the trainer, set up for a station's own logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gymnast_core.config import Positive, find_model, parse_config
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.progress import console
from gymnast_core.world_model.checkpoint import SamplingConfig
from gymnast_core.world_model.diffusion import LossConfig
from gymnast_core.world_model.model import WorldModelConfig
from gymnast_core.world_model.train import TrainConfig, train


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
    learning_rate: Positive = 2e-5
    """AdamW's, after warm-up."""
    warmup: int = 500
    """Steps of linear warm-up."""
    as_trained: bool = True
    """Loss, clip length, first action, action dropout and sampling as `init` was trained with, where its folder says;
    otherwise as given here. A WorldGym checkpoint says nothing: the defaults are its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.init:
            raise ConfigError("init: nothing given, needed a world-model folder or a WorldGym checkpoint to start from")


def finetune(config: FinetuneConfig) -> int:
    """Train on from `init`; returns 0, or 130 when interrupted (start again to resume). Raises as `train` does."""
    return train(settle(config) if config.as_trained else config)


def settle(config: FinetuneConfig) -> FinetuneConfig:
    """The config with what `init` was trained with filled in.

    Raises: ConfigError (no such model, bad values in it), CheckpointError (its config.json is unreadable).
    """
    folder = find_model(config.init)
    if not folder.is_dir():
        return config
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as a world model's config ({error})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: found {type(content).__name__}, needed a mapping")
    model = parse_config(WorldModelConfig, content.get("model", {}), str(path))
    made_by: Mapping[str, Any] = content["made_by"] if isinstance(content.get("made_by"), Mapping) else {}
    training = made_by.get("training", {})
    if not training:
        console.print(f"{folder}: does not say how it was trained; objective {made_by.get('objective', 'not')} known")
        known = {"objective": made_by["objective"]} if "objective" in made_by else {}
        training = {"loss": known, "clip_frames": model.max_frames}
    return replace(
        config,
        model=model,
        sampling=parse_config(SamplingConfig, content.get("sampling", {}), str(path)),
        loss=parse_config(LossConfig, training.get("loss", {}), f"{path}: made_by.training.loss"),
        clip_frames=min(int(training.get("clip_frames", model.max_frames)), model.max_frames),
        first_action_zero=bool(training.get("first_action_zero", config.first_action_zero)),
        action_dropout=float(training.get("action_dropout", config.action_dropout)),
    )

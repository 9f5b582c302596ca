"""`gymnast world-model finetune`: the trainer, set up for a station's own logs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnast_core.commands import YOUR_STATION, gymnast, name_next
from gymnast_core.config import StationConfig, find_model, load_config, parse_config
from gymnast_core.data.logged_by import station_file_of
from gymnast_core.errors import ConfigError
from gymnast_core.files import read_json
from gymnast_core.progress import console, say
from gymnast_core.world_model.config import SamplingConfig, WorldModelConfig
from gymnast_core.world_model.dataset import parse_source
from gymnast_core.world_model.finetune_config import FinetuneConfig
from gymnast_core.world_model.finetune_steps import usual_steps
from gymnast_core.world_model.train import Training, train
from gymnast_core.world_model.train_config import TrainConfig


def finetune(config: FinetuneConfig) -> int:
    """Train on from `init`; returns 0, or 130 when interrupted (start again to resume). Raises as `train` does."""
    settled = settle(config)
    if not config.steps:
        say(f"{settled.steps} steps, by the data and the model's size (--steps for another number)")
    code = train(settled)
    if not code:
        name_next(evaluation_of(config))
    return code


def evaluation_of(config: FinetuneConfig) -> str:
    """The command that measures the fine-tuned model on the episodes that were held out, for the station's gate."""
    folders = [parse_source(source)[0] for source in config.data]
    logged = [folder for folder in folders if station_file_of([folder])] or folders
    file = station_file_of(logged)
    horizon = config.horizon
    if file is not None:
        with suppress(ConfigError):
            horizon = load_config(StationConfig, file).adaptation.horizon
    return gymnast(
        "world-model evaluate",
        config=file or YOUR_STATION,
        model=Path(config.run).resolve() / "model",
        data=logged,
        held_out=config.held_out,
        horizon=horizon,
        run=Path(config.run).resolve() / "evaluate",
    )


def settle(config: FinetuneConfig) -> FinetuneConfig:
    """The config with what `init` was trained with filled in, where that is wanted, and the number of steps.

    Raises: ConfigError (no such model, bad values in it), CheckpointError (its config.json is unreadable), DataError
    where the episodes cannot be counted.
    """
    config, model = _as_trained(config)
    if config.steps:
        return config
    steps = usual_steps(config.data, config.held_out, model, config.batch, config.clip_frames)
    return replace(config, steps=steps, warmup=min(config.warmup, steps // 10))


def _as_trained(config: FinetuneConfig) -> tuple[FinetuneConfig, WorldModelConfig]:
    """All but the number of steps, and the size of the model."""
    folder = find_model(config.init)
    if not folder.is_dir():
        rate = config.learning_rate or config.share * TrainConfig.learning_rate
        return replace(config, learning_rate=rate), config.model
    path = folder / "config.json"
    content = read_json(path)
    model = parse_config(WorldModelConfig, content.get("model", {}), str(path))
    made_by: Mapping[str, Any] = content["made_by"] if isinstance(content.get("made_by"), Mapping) else {}
    if "training" in made_by:
        training = parse_config(Training, made_by["training"], f"{path}: made_by.training")
    else:
        console.print(f"{folder}: does not say how it was trained; taken as WorldGym's training")
        training = Training(clip_frames=model.max_frames)
    config = replace(config, learning_rate=config.learning_rate or config.share * training.learning_rate)
    if not config.as_trained:
        return config, model
    config = replace(
        config,
        model=model,
        sampling=parse_config(SamplingConfig, content.get("sampling", {}), str(path)),
        loss=training.loss,
        clip_frames=min(training.clip_frames, model.max_frames),
        first_action_zero=training.first_action_zero,
        action_dropout=training.action_dropout,
        optimiser=training.optimiser,
    )
    return config, model

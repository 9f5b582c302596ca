"""The parts of a run, as a station's file names them: policy, imagination, and what of the policy is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gymnast_core.config import JudgeConfig, StationConfig, find_model, load_config
from gymnast_core.device import choose_device, inference_dtype
from gymnast_core.errors import ConfigError
from gymnast_core.graph import find_station_file
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.policy.parallel import Ranks, is_sharded
from gymnast_core.rl.four_bit import quantise_base
from gymnast_core.rl.trainer import GRPOConfig, load_recipe
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.fidelity import sampling_of

ADAPTER = "practice"
"""Name of the adapter in training; it gets its own when it is kept."""


@dataclass(frozen=True)
class StationFile:
    """A station's config with the file it came from; relative model folders are looked up beside it."""

    path: Path
    config: StationConfig


def open_station(name: str, policy: str = "", world_model: str = "", judge: str = "", device: str = "") -> StationFile:
    """Read a station file; model folders that are given replace the file's. Raises: ConfigError."""
    path = find_station_file(name)
    station = load_config(StationConfig, path)
    models = station.models
    models = dataclasses.replace(
        models,
        policy=policy or models.policy,
        world_model=world_model or models.world_model,
        device=device or models.device,
    )
    judging = dataclasses.replace(station.judge, kind="classifier", checkpoint=judge) if judge else station.judge
    return StationFile(path, dataclasses.replace(station, models=models, judge=judging))


def on_this_rank(station: StationFile, ranks: Ranks) -> StationFile:
    """The station with the device that this process works on."""
    models = dataclasses.replace(station.config.models, device=ranks.device(device_of(station.config)))
    return dataclasses.replace(station, config=dataclasses.replace(station.config, models=models))


def device_of(station: StationConfig) -> str:
    """ "cpu" or "cuda...": "auto" takes a GPU where there is one."""
    return choose_device(station.models.device)


def open_recipe(name: str, ranks: Ranks, **overrides: Any) -> GRPOConfig:
    """A recipe that so many processes can follow. Raises: ConfigError, see `load_recipe`."""
    recipe = load_recipe(name, **overrides)
    if recipe.base_precision == "nf4" and recipe.shard and ranks.size > 1:
        raise ConfigError(
            f"recipe '{name}': a base in 4 bits (base_precision: nf4) is not divided among processes; set shard: false"
        )
    return recipe


def open_policy(station: StationFile, recipe: GRPOConfig | None = None) -> OpenVLAPolicy:
    """recipe: says the weights' precision; training all of them needs float32, whatever the device.

    Raises: ConfigError (no such folder), CheckpointError (damaged).
    """
    models, device = station.config.models, device_of(station.config)
    folder = find_model(models.policy, station.path)
    precision = recipe.base_precision if recipe is not None else "auto"
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}
    if precision == "nf4":
        policy = load_policy(folder, models.unnorm_key, "cpu", inference_dtype(device))
        quantise_base(policy.model, device)
        return policy
    full = recipe is not None and recipe.trainable == "full"
    return load_policy(folder, models.unnorm_key, device, torch.float32 if full else dtypes[precision])


def open_imagination(station: StationFile) -> WorldModelEnvironment:
    """Imagination in which the station's safety envelope stands before the world model as it does before the arm.

    Raises: ConfigError (no such folder), CheckpointError (damaged)."""
    models = station.config.models
    return WorldModelEnvironment.from_folder(
        find_model(models.world_model, station.path),
        device=device_of(station.config),
        max_rollouts=models.imagined_rollouts,
        sampling=sampling_of(models),
        autoencoder=models.autoencoder,
        arm=DeadReckoning(station.config.arm, station.config.safety),
    )


def gate_judge(station: StationFile, folder: str = "") -> JudgeConfig | None:
    """Who measures before and after practice: the learned judge in `folder`, or whom the station file names.

    None where that is the very judge that trains. Raises: ConfigError (no such folder; a judge that needs a station).
    """
    own, chosen = station.config.judge, folder or station.config.adaptation.gate_judge
    if not chosen:
        return None
    other = JudgeConfig(kind="classifier", checkpoint=chosen) if isinstance(chosen, str) else chosen
    if other.kind == "truth":
        raise ConfigError(
            f"{station.path}: adaptation.gate_judge.kind: found truth, but imagination has none; needed another judge"
        )
    if other.kind == own.kind == "vlm":
        same = (other.model, other.base_url) == (own.model, own.base_url)
    elif other.kind == own.kind == "classifier":
        same = find_model(other.checkpoint, station.path) == find_model(own.checkpoint, station.path)
    else:
        same = False
    return None if same else other


def in_one_piece(
    policy: OpenVLAPolicy, station: StationFile, recipe: GRPOConfig, weights: Mapping[str, torch.Tensor]
) -> OpenVLAPolicy:
    """The policy to save: itself, or, where it is sharded, a plain copy on the CPU with the trained weights."""
    if not is_sharded(policy.model):
        return policy
    models = dataclasses.replace(station.config.models, device="cpu")
    whole = open_policy(dataclasses.replace(station, config=dataclasses.replace(station.config, models=models)), recipe)
    prepare_training(whole, recipe)
    whole.model.load_state_dict(weights, strict=False)
    return whole


def prepare_training(policy: OpenVLAPolicy, config: GRPOConfig) -> None:
    """Make what the recipe trains trainable, and only that: a fresh adapter that acts, or all base weights."""
    policy.model.language_model.model.recompute_activations = config.recompute_activations
    if config.trainable == "full":
        adapters.train_only(policy, None)
        return
    vision = config.lora_vision
    adapters.attach(policy, ADAPTER, config.lora_rank, config.lora_alpha, vision, vision, seed=config.seed)
    adapters.activate(policy, ADAPTER)
    adapters.train_only(policy, ADAPTER)

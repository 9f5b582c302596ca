"""The parts of a run, as a station's file names them: policy, imagination, and what of the policy is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gymnast_core.device import inference_dtype
from gymnast_core.errors import ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.policy.sharding import is_sharded
from gymnast_core.ranks import Ranks
from gymnast_core.rl.config import GRPOConfig, load_recipe
from gymnast_core.rl.four_bit import quantise_base
from gymnast_core.station_file import StationFile

ADAPTER = "practice"
"""Name of the adapter in training; it gets its own when it is kept."""


def open_recipe(name: str, ranks: Ranks, **overrides: Any) -> GRPOConfig:
    """A recipe that this many processes can follow. Raises: ConfigError, see `load_recipe`."""
    recipe = load_recipe(name, **overrides)
    if recipe.base_precision == "nf4" and recipe.shard and ranks.size > 1:
        raise ConfigError(
            f"recipe '{name}': a base in 4 bits (base_precision: nf4) is not divided among processes; set shard: false"
        )
    return recipe


def open_trainable_policy(station: StationFile, recipe: GRPOConfig | None = None) -> OpenVLAPolicy:
    """recipe: says the weights' precision; training all of them needs float32, whatever the device.

    Raises: ConfigError (no such folder), CheckpointError (damaged).
    """
    key, device, folder = station.config.models.unnorm_key, station.device, station.policy_folder
    precision = recipe.base_precision if recipe is not None else "auto"
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}
    if precision == "nf4":
        policy = load_policy(folder, key, "cpu", inference_dtype(device))
        quantise_base(policy.model, device)
        return policy
    full = recipe is not None and recipe.trainable == "full"
    return load_policy(folder, key, device, torch.float32 if full else dtypes[precision])


def in_one_piece(
    policy: OpenVLAPolicy, station: StationFile, recipe: GRPOConfig, weights: Mapping[str, torch.Tensor]
) -> OpenVLAPolicy:
    """The policy to save: itself, or, where it is sharded, a plain copy on the CPU with the trained weights."""
    if not is_sharded(policy.model):
        return policy
    whole = open_trainable_policy(station.on_device("cpu"), recipe)
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

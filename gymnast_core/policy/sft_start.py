"""What a supervised fine-tuning starts from: a base or a new model, its statistics, and what of it is trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from gymnast_core.config import find_model, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import read_checkpoint, with_statistics
from gymnast_core.policy.dataset import TrainingEpisode
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.recipe import new_checkpoint
from gymnast_core.policy.sft_config import ModelRecipe, SFTConfig
from gymnast_core.policy.statistics import compute_statistics

RECIPES = Path(__file__).resolve().parent / "recipes"
SHIPPED = "mini/policy"
ADAPTER = "sft"
"""Name of the adapter in training; it gets its own when it is written."""


def writes_checkpoint(config: SFTConfig) -> bool:
    """Whether the result is a whole checkpoint in `out`, not an adapter."""
    return config.lora_rank == 0 or config.merge


def find_base(config: SFTConfig) -> Path | None:
    """The checkpoint to start from; None: a new model. Raises: ConfigError when no checkpoint has that name."""
    named = config.base or ("" if config.init or config.model else SHIPPED)
    return find_model(named) if named else None


def check_folders(config: SFTConfig) -> None:
    """See that no folder is in the way of another. Raises: ConfigError naming the option."""
    try:
        run, out, base = Path(config.run).resolve(), Path(config.out).resolve(), find_base(config)
    except ValueError as error:  # a NUL
        raise ConfigError(f"run or out: found {config.run!r} and {config.out!r}, needed names of folders") from error
    if writes_checkpoint(config):
        if base is not None and out == base.resolve():
            raise ConfigError(f"out: found the base itself ({config.out}), needed another folder")
        if out == run or out in run.parents:
            raise ConfigError(
                f"run: found {config.run}, which is, or lies in, the checkpoint folder that will be replaced "
                f"({config.out}); choose another --run"
            )


def build_policy(
    config: SFTConfig, demonstrations: Sequence[TrainingEpisode], instructions: Iterable[str], device: str
) -> OpenVLAPolicy:
    """The policy to train, on `device`: a base with its statistics, or a new model with those of the demonstrations.

    instructions: of everything it is trained and measured on; their words become a new model's tokens.

    Raises: ConfigError when base and init are both given, or a new model is given options of a base; CheckpointError
        for a bad base.
    """
    if config.base and config.init:
        raise ConfigError("base and init: found both, give one of them")
    base = find_base(config)
    if base is not None:
        for name in ("chunk_length", "image_variant"):
            if (found := getattr(config, name)) and not writes_checkpoint(config):
                raise ConfigError(
                    f"{name}: found {found!r} for an adapter, which acts as its base's config.json says; write "
                    "it there, or merge"
                )
        # Float32 masters whatever the device; the forward runs in bfloat16 on a GPU.
        dtype = torch.bfloat16 if config.lora_rank and device.startswith("cuda") else torch.float32
        given = (config.chunk_length or None, config.image_variant or None)
        return OpenVLAPolicy(read_checkpoint(base, device, dtype, *given), config.unnorm_key)
    recipe = load_model_recipe(config.init) if config.init else config.model
    assert recipe is not None
    if config.lora_rank:
        raise ConfigError(f"lora_rank: found {config.lora_rank} for a new model, needed 0 (there is no base to adapt)")
    for name in ("chunk_length", "image_variant"):
        if found := getattr(config, name):
            raise ConfigError(f"{name}: found {found!r} for a new model, which takes it from `model.{name}`")
    statistics = compute_statistics([entry.actions for entry in demonstrations])
    words = sorted({word for text in instructions for word in re.findall(r"[^\W\d_]+", text)})
    checkpoint = new_checkpoint(recipe, words, config.seed, Path(config.out))
    checkpoint.model.to(device)
    return OpenVLAPolicy(with_statistics(checkpoint, config.unnorm_key, statistics), config.unnorm_key)


def load_model_recipe(name: str) -> ModelRecipe:
    """The `model` section of a recipe, shipped (by name) or a YAML file. Raises: ConfigError."""
    shipped = RECIPES / f"{name}.yaml"
    path = shipped if shipped.exists() else user_path(name)
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"init '{name}': neither a file nor a shipped recipe ({names})")
    recipe = load_config(SFTConfig, path).model
    if recipe is None:
        raise ConfigError(f"{path}: has no `model` section")
    return recipe


def prepare_sft(policy: OpenVLAPolicy, config: SFTConfig) -> None:
    """Make what is trained trainable, and only that: a fresh adapter that acts, or all weights that take part."""
    policy.model.language_model.model.recompute_activations = config.recompute_activations
    if not config.lora_rank:
        adapters.train_only(policy, None)
        return
    vision = config.lora_vision
    factors = (config.lora_rank, config.lora_alpha, vision, vision, config.seed, 1.0 / config.lora_rank)
    adapters.attach(policy, ADAPTER, *factors)
    adapters.activate(policy, ADAPTER)
    adapters.train_only(policy, ADAPTER)

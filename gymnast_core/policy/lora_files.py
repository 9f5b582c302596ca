"""A LoRA folder in `peft`'s format, read and checked against a policy before anything of it touches the policy.

Taken is what `peft` adds to linear layers of a base that stays as it is: any choice of layers, ranks and alphas by
pattern, rank-stabilised scaling, DoRA, biases of adapted layers. What changes the base itself (other trained modules,
starts that are subtracted from the base) is refused by name. Nothing is looked up on the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gymnast_core.errors import CheckpointError
from gymnast_core.files import read_json
from gymnast_core.policy.lora import BASE_LAYER, base_modules, base_name
from gymnast_core.policy.model import OpenVLA
from gymnast_core.tensor_files import load_tensors

if TYPE_CHECKING:
    from gymnast_core.policy.peft_library import LoraConfig

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
HEAD = "language_model.lm_head"
MAX_ALPHA = 1e6
UNCHANGED = 1e-6
"""Biases that differ from the base's by no more are the base's."""
FLAGS = ("use_rslora", "use_dora", "lora_bias")
PATTERNS = ("rank_pattern", "alpha_pattern")
LAYERS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
BIASES = ("none", "lora_only", "all")
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it was; the others train a difference to a changed base."""
WITHOUT_EFFECT = {
    "peft_type",
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "lora_dropout",
    "runtime_config",
    "loftq_config",
    "eva_config",
    "megatron_core",
    "qalora_group_size",
    "init_lora_weights",
    "bias",
}
"""Keys that say nothing about what the adapter does in acting, or are looked at on their own."""


@dataclass(frozen=True)
class LoraFolder:
    """A folder that fits a network. layers: rank and alpha by layer. state: tensors by layer, then by `peft`'s key."""

    config: LoraConfig
    layers: Mapping[str, tuple[int, float]]
    state: Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class _Layer:
    """One layer to adapt: the base's own, and the factors' rank and alpha."""

    base: nn.Linear
    rank: int
    alpha: float

    def shapes(self, config: LoraConfig) -> dict[str, tuple[int, ...]]:
        """Of the tensors that the adapter has for it, by `peft`'s key."""
        shapes: dict[str, tuple[int, ...]] = {
            "lora_A.weight": (self.rank, self.base.in_features),
            "lora_B.weight": (self.base.out_features, self.rank),
        }
        if config.lora_bias:
            shapes["lora_B.bias"] = (self.base.out_features,)
        if config.use_dora:
            shapes["lora_magnitude_vector"] = (self.base.out_features,)
        return shapes


def read_lora_config(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says. Raises: CheckpointError naming what is missing, wrong or not taken."""
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise CheckpointError(f"{folder}: {CONFIG} is missing, so this is no LoRA folder")
    found = dict(read_json(path))
    if found.get("peft_type") != "LORA":
        raise _wrong(path, "peft_type", found.get("peft_type"), "'LORA'")
    _check_numbers(path, found)
    _check_layers(path, found)
    for key in FLAGS:
        if not isinstance(found.get(key, False), bool):
            raise _wrong(path, key, found[key], "true or false")
    if found.get("bias", "none") not in BIASES:
        raise _wrong(path, "bias", found["bias"], " or ".join(BIASES))
    if found.get("bias", "none") != "none" and found.get("use_dora"):
        raise CheckpointError(f"{path}: bias is {found['bias']!r} together with use_dora, which is not taken")
    if (start := found.get("init_lora_weights", True)) not in STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {shorten(repr(start), 60)}: trained against a changed base, and the base "
            "stays as it is here; convert it to an ordinary LoRA (peft: path_initial_model_for_weight_conversion)"
        )
    known = {"r", "lora_alpha", *FLAGS, *PATTERNS, *LAYERS, *WITHOUT_EFFECT}
    if others := sorted(key for key, value in found.items() if key not in known and value):
        value = shorten(repr(found[others[0]]), 60)
        raise CheckpointError(
            f"{path}: {others[0]} is {value}, which is not taken: only low-rank changes of linear layers"
        )
    return found


def _check_numbers(path: Path, found: Mapping[str, Any]) -> None:
    for key in PATTERNS:
        pattern = found.get(key) or {}
        if not isinstance(pattern, Mapping):
            raise _wrong(path, key, pattern, "a mapping of layers to numbers")
        for layer in pattern:
            _check_expression(path, key, layer)
    ranks = {"r": found.get("r", 8), **{f"rank_pattern.{k}": v for k, v in (found.get("rank_pattern") or {}).items()}}
    for key, value in ranks.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(path, key, value, "a whole number from 1")
    alphas = {"lora_alpha": found.get("lora_alpha", 8)}
    alphas |= {f"alpha_pattern.{k}": v for k, v in (found.get("alpha_pattern") or {}).items()}
    for key, value in alphas.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= MAX_ALPHA:
            raise _wrong(path, key, value, f"a number above 0 to {MAX_ALPHA:g}")


def _check_layers(path: Path, found: Mapping[str, Any]) -> None:
    if not found.get("target_modules"):
        raise _wrong(path, "target_modules", found.get("target_modules"), "names of layers, or an expression")
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        value = found.get(key)
        if isinstance(value, str):
            _check_expression(path, key, value)
        elif value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise _wrong(path, key, value, "names of layers, or an expression")
    numbers = found.get("layers_to_transform")
    listed = numbers if isinstance(numbers, list) else [] if numbers is None else [numbers]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in listed):
        raise _wrong(path, "layers_to_transform", numbers, "numbers of layers")


def _check_expression(path: Path, key: str, value: str) -> None:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise _wrong(path, key, value, f"a regular expression ({error})") from error


def _wrong(path: Path, key: str, found: object, needed: str) -> CheckpointError:
    return CheckpointError(f"{path}: {key} is {shorten(repr(found), 60)}, needed {needed}")


def read_lora(folder: Path, model: OpenVLA) -> LoraFolder:
    """Read a folder for this network, which stays as it is. Raises: CheckpointError, one line."""
    found = read_lora_config(folder)
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(f"{folder}: found adapter_model.bin, which is not read (only {TENSORS})")
    path = folder / TENSORS
    state = {_plain_key(key): value for key, value in load_tensors(path).items()}
    biases = {key: state.pop(key) for key in list(state) if key.endswith(".bias") and ".lora_" not in key}
    if biases and found.get("bias", "none") == "none":
        raise CheckpointError(f"{path}: holds '{min(biases)}', though {CONFIG} says bias 'none'")
    config = _peft_config(folder / CONFIG, found, model, bool(biases))
    layers = _matched(folder / CONFIG, config, model)
    _turn_biases(path, biases, state, layers, model, config.use_rslora)
    numbers = {name: (layer.rank, layer.alpha) for name, layer in layers.items()}
    return LoraFolder(config, numbers, _by_layer(path, state, layers, config))


def _plain_key(key: str) -> str:
    key = key.removeprefix(PREFIX).replace(BASE_LAYER, ".")
    return key.removesuffix(".weight") if key.endswith("lora_magnitude_vector.weight") else key


def _peft_config(path: Path, found: Mapping[str, Any], model: OpenVLA, biases: bool) -> LoraConfig:
    from gymnast_core.policy.peft_library import LoraConfig

    options = {key: found[key] for key in ("r", "lora_alpha", *FLAGS, *PATTERNS, *LAYERS) if found.get(key) is not None}
    if biases:
        options["lora_bias"] = True
    targets = options["target_modules"]
    if isinstance(targets, str) and targets.lower() == "all-linear":  # peft leaves out the head it knows, as here
        linear = (name for name, layer in base_modules(model).items() if isinstance(layer, nn.Linear))
        options["target_modules"] = [name for name in linear if name != HEAD]
    try:
        return LoraConfig(**options, init_lora_weights=False)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {shorten(' '.join(str(error).split()), 300)}") from error


def _matched(path: Path, config: LoraConfig, model: OpenVLA) -> dict[str, _Layer]:
    """The layers that the config means, by `peft`'s own rules. Raises: CheckpointError for none, or no linear one."""
    from gymnast_core.policy.peft_library import check_target_module_exists, get_pattern_key

    layers = {}
    for name, module in base_modules(model).items():
        if not check_target_module_exists(config, name):
            continue
        if not isinstance(module, nn.Linear):
            raise CheckpointError(f"{path}: adapts '{name}', which is no linear layer but {type(module).__name__}")
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
        layers[name] = _Layer(module, rank, alpha)
    if not layers:
        raise CheckpointError(f"{path}: target_modules names no layer that this policy has")
    return layers


def _turn_biases(
    path: Path,
    biases: Mapping[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    layers: Mapping[str, _Layer],
    model: OpenVLA,
    stabilised: bool,
) -> None:
    """Trained biases become what the adapter adds to the base's, so that the base keeps its own.

    Raises: CheckpointError for one of a layer without adapter that is not the base's.
    """
    own = {base_name(name): value for name, value in model.named_parameters()}
    for key, value in biases.items():
        if key not in own or own[key].shape != value.shape or not value.is_floating_point():
            raise CheckpointError(
                f"{path}: holds '{key}' of shape {tuple(value.shape)}, which this policy has no place for"
            )
        change = value.float() - own[key].detach().cpu().float()
        module = key.removesuffix(".bias")
        if module in layers:
            rank, alpha = layers[module].rank, layers[module].alpha
            state[f"{module}.lora_B.bias"] = change * (rank**0.5 if stabilised else rank) / alpha
        elif not float(change.abs().max()) <= UNCHANGED:
            raise CheckpointError(
                f"{path}: changes the base's '{key}', which stays as it is; only biases of adapted layers"
            )
    if biases:
        for module, layer in layers.items():
            state.setdefault(f"{module}.lora_B.bias", torch.zeros(layer.base.out_features))


def _by_layer(
    path: Path, state: Mapping[str, torch.Tensor], layers: Mapping[str, _Layer], config: LoraConfig
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors by layer. Raises: CheckpointError for one that is missing, left over, misshapen or not finite."""
    left = dict(state)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for module, layer in layers.items():
        found[module] = {}
        for key, shape in layer.shapes(config).items():
            tensor = left.pop(f"{module}.{key}", None)
            if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
                kind = "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise CheckpointError(f"{path}: {key} of '{module}': found {kind}, needed floats of shape {shape}")
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: {key} of '{module}' holds a value that is not finite")
            found[module][key] = tensor
    if left:
        raise CheckpointError(f"{path}: holds '{min(left)}', which {CONFIG} does not name")
    return found

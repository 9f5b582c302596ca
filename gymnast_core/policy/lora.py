"""Low-rank adapters inside a network: `peft`'s layers found, made to act, read and taken out again.

`peft` puts a layer of its own in the place of every adapted one; the original is its `base_layer`, its weight
untouched. Nothing here imports `peft`, which takes seconds: what makes such layers is in `lora_layer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")
BASE_LAYER = ".base_layer."
FACTOR = re.compile(r"\.lora_(?:A|B|magnitude_vector)\.([^.]+)\.(?:weight|bias)$")
FACTOR_BEFORE_PEFT = re.compile(r"\.adapters\.([^.]+)\.(lora_[AB])$")


def adapter_of(parameter: str) -> str | None:
    """The adapter that a network's parameter belongs to, by the parameter's name; None: to the base."""
    found = FACTOR.search(parameter)
    return found[1] if found else None


def base_name(parameter: str) -> str:
    """A base parameter's name in checkpoints, whether or not its layer is adapted."""
    return parameter.replace(BASE_LAYER, ".")


def name_of_today(parameter: str) -> str:
    """A parameter's name; one that a factor had in runs before its layer was `peft`'s becomes that of today."""
    return FACTOR_BEFORE_PEFT.sub(r".\2.\1.weight", parameter)


def names_of_today(named: Mapping[str, T]) -> dict[str, T]:
    """What a run saved by parameter name, under the names of today."""
    return {name_of_today(name): value for name, value in named.items()}


def adapted_layers(model: nn.Module, adapter: str | None = None) -> dict[str, Any]:
    """Layers that some adapter (or this one) changes, by the name that they have in the base."""
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    return {name: layer for name, layer in layers.items() if adapter is None or adapter in layer.lora_A}


def base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The base's modules by their names in it, adapted or not, in the network's order."""
    modules = ((name, module) for name, module in model.named_modules() if name and ".lora_" not in name)
    return {name.removesuffix(".base_layer"): module for name, module in modules}


def acts(layer: nn.Module) -> bool:
    """Whether an adapter changes this layer's output now."""
    factors = getattr(layer, "lora_A", ())
    return any(name in factors for name in getattr(layer, "active_adapters", ()))


def set_active(model: nn.Module, names: Sequence[str]) -> None:
    """Let these adapters act, and no other. What requires gradients stays what it is."""
    for layer in adapted_layers(model).values():
        with gradients_as_they_were(layer):
            layer.set_adapter(list(names))


def take_out(model: nn.Module, name: str) -> None:
    """Remove an adapter that does not act; layers without any adapter become the base's own again."""
    for path, layer in adapted_layers(model, name).items():
        with gradients_as_they_were(layer):
            layer.delete_adapter(name)
        if not layer.lora_A:
            parent, _, own = path.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.base_layer)


def factors(layer: Any, name: str) -> dict[str, tuple[nn.Module, str]]:
    """One adapter's parameters on one layer by `peft`'s key: the module that holds each, and its name there."""
    found = {"lora_A.weight": (layer.lora_A[name], "weight"), "lora_B.weight": (layer.lora_B[name], "weight")}
    if layer.lora_B[name].bias is not None:
        found["lora_B.bias"] = (layer.lora_B[name], "bias")
    if name in layer.lora_magnitude_vector:
        found["lora_magnitude_vector"] = (layer.lora_magnitude_vector[name], "weight")
    return found


def put_in(layer: Any, name: str, key: str, value: torch.Tensor) -> None:
    """Make `value` the parameter of that key, on the base layer's device and in float32.

    Factors stay float32 whatever the base is: small updates must not be rounded away.
    """
    module, own = factors(layer, name)[key]
    setattr(module, own, nn.Parameter(value.to(layer.base_layer.weight.device, torch.float32)))


@contextmanager
def gradients_as_they_were(layer: nn.Module) -> Iterator[None]:
    """Inside, `peft` freezes and unfreezes as it likes; parameters that existed before are afterwards as they were."""
    before = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)

"""`peft`'s LoRA on linear layers. It imports `peft`, which takes seconds: import it in functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from gymnast_core.policy.lora import gradients_as_they_were
from gymnast_core.policy.model import OpenVLA
from gymnast_core.policy.peft_library import LoraConfig, LoraLinear


class AdaptedLinear(LoraLinear):
    """`peft`'s layer: y = W x + scaling * B A x for each adapter that acts (LoRA, arXiv 2106.09685, section 4.1).

    Plain factors are cast to the type of x. `peft` casts x to the factors' float32, which in bfloat16 costs more than
    a tenth of a pass (docs/how-to/policy.md has the figures); in float32 both give the same bits. Variants such as
    DoRA are `peft`'s own.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        names, downs, ups = self.active_adapters, self.lora_A, self.lora_B
        if self.lora_variant and any(name in self.lora_variant for name in names):
            return super().forward(x, *args, **kwargs)
        y = self.base_layer(x)
        for name in names:
            if name not in downs:
                continue
            down, up = downs[name], ups[name]
            bias = None if up.bias is None else up.bias.to(x.dtype)
            y = y + F.linear(F.linear(x, down.weight.to(x.dtype)), up.weight.to(x.dtype), bias) * self.scaling[name]
        return y


def put_on(
    model: OpenVLA, name: str, config: LoraConfig, layers: Mapping[str, tuple[int, float]], active: Sequence[str] = ()
) -> dict[str, AdaptedLinear]:
    """Add an adapter to linear layers; its factors have no values yet (they are on "meta").

    layers: rank and alpha by the layer's name. active: the adapters that act afterwards, as before. `peft`'s own way in
    (`inject_adapter_in_model`) does the same and looks through the whole network several times meanwhile.
    """
    modules, adapted = dict(model.named_modules()), {}
    for path, (rank, alpha) in layers.items():
        layer = modules[path]
        with torch.device("meta"), gradients_as_they_were(layer):
            if isinstance(layer, AdaptedLinear):
                layer.update_layer(name, rank, lora_alpha=alpha, config=config)
            else:
                layer = AdaptedLinear(layer, name, config, r=rank, lora_alpha=alpha)
                parent, _, own = path.rpartition(".")
                setattr(modules[parent], own, layer)
            layer.set_adapter(list(active))
        adapted[path] = layer
    model.adapter_configs[name] = config
    return adapted

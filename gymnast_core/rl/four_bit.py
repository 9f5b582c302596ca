"""A frozen base in 4 bits: what QLoRA (arXiv 2305.14314, section 3) does so that a 7 B policy practises on a small GPU.

The weights of the language model's linear layers are kept as NF4 codes with one scale for every 64 of them; a layer's
weight is computed anew from them for each pass, forward and backward, and never kept. Embeddings, head, norms, vision
and projector stay as they are. Sampling and log-probabilities go through the same layers, so both are the quantised
base's; adapters are trained on it in float32, saved as ever, and act on the full base as well (docs/how-to/full_size.md
says how far that is from what they were trained on).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gymnast_core.errors import ConfigError
from gymnast_core.policy.model import OpenVLA

BLOCK = 64
"""Weights that share one float32 scale: 4.5 bits per weight in all."""


class FourBitLinear(nn.Linear):
    """A linear layer whose weight is NF4; `weight` computes it (out_features, in_features) in the type it had."""

    def __init__(self, layer: nn.Linear, device: torch.device | str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.dtype = layer.weight.dtype
        # As one row: the library's CPU code gives wrong weights for rows that blocks do not divide evenly.
        packed, state = _library().quantize_4bit(
            layer.weight.detach().to(device).flatten(), blocksize=BLOCK, compress_statistics=False, quant_type="nf4"
        )
        # Not saved: what a checkpoint of an adapter's training holds is the adapter.
        self.register_buffer("codes", packed, persistent=False)
        self.register_buffer("scales", state.absmax, persistent=False)
        self.register_buffer("levels", state.code, persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        library = _library()
        state = library.QuantState(
            self.scales,
            shape=torch.Size((self.out_features * self.in_features,)),
            code=self.levels,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=self.dtype,
        )
        return library.dequantize_4bit(self.codes, state).view(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    """x W^T, with W computed again for the gradient: kept until then, all of them would need the memory saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:  # type: ignore[override]
        ctx.layer = layer
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient @ ctx.layer.weight, None


def quantise_base(model: OpenVLA, device: torch.device | str) -> None:
    """Put the language model's layers into 4 bits and the whole model on `device`, layer by layer, in place.

    The model may lie on the CPU, so that the device never holds it in full. Raises: ConfigError without bitsandbytes.
    """
    for block in model.language_model.model.layers:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                parent, _, own = name.rpartition(".")
                setattr(block.get_submodule(parent), own, FourBitLinear(layer, device))
    model.to(device)


def _library() -> Any:
    """bitsandbytes' functions. Raises: ConfigError that says how to get it."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it misses kernels that are not used here
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise ConfigError(
            "base_precision: nf4 needs the package bitsandbytes; pip install 'gymnast[four-bit]'"
        ) from error
    return bitsandbytes.functional

"""The linear layer of the policy: an ordinary one that low-rank adapters are added to, its weight untouched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LowRank(nn.Module):
    """The two factors of one adapter on one layer: adds scale * B A x (LoRA, arXiv 2106.09685, section 4.1).

    A (rank, in_features) starts Gaussian, B (out_features, rank) at zero: a new adapter changes nothing.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, scale: float, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.zeros(rank, in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device))
        self.scale = scale

    def reset(self, deviation: float, generator: torch.Generator | None = None) -> None:
        """Draw A anew and zero B."""
        with torch.no_grad():
            self.lora_A.copy_(torch.randn(self.lora_A.shape, generator=generator) * deviation)
            self.lora_B.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scale


class Linear(nn.Linear):
    """nn.Linear under the same key names, plus what the active adapters add.

    Adapters live in `adapters` (by name); only those named in `active` take part. With none active the output is the
    base layer's, bit for bit.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()

    def base(self, x: torch.Tensor) -> torch.Tensor:
        """Without adapters."""
        return F.linear(x, self.weight, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        for name in self.active:
            if name in self.adapters:
                y = y + self.adapters[name](x)
        return y


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 as Llama does."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)

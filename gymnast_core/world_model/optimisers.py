"""Optimisers of the world model's training: AdamW, Muon for matrices, the learning rate's course, averaged weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gymnast_core.errors import ConfigError
from gymnast_core.world_model.model import WorldModel
from gymnast_core.world_model.train_config import OptimiserKind


def make_optimisers(
    model: WorldModel, kind: OptimiserKind, *, learning_rate: float, weight_decay: float
) -> dict[str, torch.optim.Optimizer]:
    """AdamW over everything, or over all but the matrices of the blocks and Muon over those; by name in a checkpoint.

    Raises: ConfigError where torch has no Muon.
    """
    matrices: list[Tensor] = []
    if kind == "muon":
        matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = set(matrices)
    decayed = [p for p in model.parameters() if p.ndim >= 2 and p not in chosen]
    plain = [p for p in model.parameters() if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.99),
        foreach=True,
    )
    if not matrices:
        return {"optimiser": adamw}
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"optimiser: muon needs torch 2.9 or newer, found {torch.__version__}; or use adamw")
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return {"optimiser": adamw, "muon": muon}


def decayed_rate(
    peak: float, step: int, steps: int, elapsed: float, seconds: float, *, warmup: int, floor: float = 0.01
) -> float:
    """Linear warm-up, then a cosine from peak to floor * peak over the steps or the seconds, whichever ends first."""
    done = max(step / steps, elapsed / seconds if seconds else 0.0)
    cosine = floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * min(1.0, done)))
    return float(peak * min(1.0, (step + 1) / max(1, warmup)) * cosine)


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], model: torch.nn.Module, decay: float, step: int) -> None:
    """Exponential moving average, quicker at the start so that the initial weights leave it."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(
        [average[name] for name, _ in model.named_parameters()], [p.detach() for p in model.parameters()], 1 - decay
    )

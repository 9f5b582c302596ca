"""Several processes train one policy: weights, gradients and optimiser state are sharded (FSDP2), samples are divided.

Started by `torchrun`, which sets RANK and WORLD_SIZE; without it there is one process and nothing here acts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from gymnast_core.policy.model import OpenVLA

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)


class Ranks:
    """This process among those that train together."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if cuda else "gloo")

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """The device this process works on."""
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return f"cuda:{torch.cuda.current_device()}" if wanted == "cuda" and self.size > 1 else wanted

    def average(self, *values: float) -> list[float]:
        """Means over the processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device())
        dist.all_reduce(tensor)
        return (tensor / self.size).tolist()

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """(whether any process wants to stop, the longest time any has spent): the same everywhere."""
        if self.size == 1:
            return stop, seconds
        tensor = torch.tensor([float(stop), seconds], dtype=torch.float64, device=self._device())
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor[0]), float(tensor[1])

    def shard(self, model: OpenVLA) -> None:
        """Shard every block and then the rest; a no-op for one process. Compute is bfloat16 on a GPU."""
        if self.size == 1:
            return
        on_gpu = torch.cuda.is_available()
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if on_gpu else None, reduce_dtype=torch.float32 if on_gpu else None
        )
        vision = model.vision_backbone
        blocks: list[nn.Module] = [
            *vision.featurizer.blocks,
            *vision.fused_featurizer.blocks,
            *model.language_model.model.layers,
        ]
        for block in blocks:
            fully_shard(block, mp_policy=precision)
        fully_shard(model, mp_policy=precision)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    def finish(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _device(self) -> str:
        return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights, gathered on the CPU of the first process (empty on the others)."""
    state: dict[str, torch.Tensor] = get_model_state_dict(model, options=WHOLE)  # type: ignore[assignment]
    return state


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by parameter name, gathered on the first process."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_whole_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give every process its shard of the first one's weights; names that are not in `state` stay as they are."""
    set_model_state_dict(model, dict(state), options=FROM_FIRST)


def load_whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """The same for the optimiser."""
    set_optimizer_state_dict(model, optimizer, dict(state), options=FROM_FIRST)

"""One process or many: sums over ranks and gradient reduction, both doing nothing in a single process.

Started by torchrun, every rank rolls out its own share of the groups; one reduced update follows. Gradients are summed,
not averaged: each rank's loss is already divided by the number of trajectories of all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """Rank and size of the group of processes; `setup` joins the one torchrun describes, if any."""

    def __init__(self) -> None:
        active = dist.is_available() and dist.is_initialized()
        self.rank: int = dist.get_rank() if active else 0
        self.size: int = dist.get_world_size() if active else 1

    @classmethod
    def setup(cls) -> Processes:
        """Join torchrun's group (environment variables RANK and WORLD_SIZE), gloo on CPU and NCCL on GPUs."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            gpu = torch.cuda.is_available()
            if gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if gpu else "gloo")
        return cls()

    def sum(self, *values: float) -> list[float]:
        """The values, each summed over all ranks."""
        if self.size == 1:
            return [float(value) for value in values]
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def reduce_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum gradients over all ranks; a rank without any counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every rank the values of rank 0."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, src=0)

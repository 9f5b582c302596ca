"""Several processes that train together: who is first, what is summed, gathered and awaited, and a peer that is lost.

Started by `torchrun`, which sets RANK and WORLD_SIZE; without it there is one process and nothing here acts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from gymnast_core.errors import GymnastError

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""How long one process waits for another: a judge that retries may keep one busy for long."""


LOST = ("gloo", "nccl", "connection", "peer", "process group", "tcpstore")
"""Words of the messages by which a collective says that another process is gone."""


class PeerLost(GymnastError):
    """Another process of the run has ended, so this one cannot go on."""


class Ranks:
    """This process among those that train together."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            # Weights may be on the CPU (device: cpu) where there are GPUs, and NCCL knows only these.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """The device this process works on; `wanted` as `choose_device` gives it."""
        return f"cuda:{torch.cuda.current_device()}" if wanted == "cuda" and self.size > 1 else wanted

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, the end of another process ends this one too: by PeerLost, not by the error of a collective."""
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and (isinstance(error, dist.DistError) or any(w in str(error).lower() for w in LOST)):
                told = " ".join(str(error).split())[:120]
                raise PeerLost(f"another process of this run has ended ({told})") from error
            raise

    def sum(self, *values: float) -> list[float]:
        """The values, each summed over the processes."""
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device())
        dist.all_reduce(tensor)
        return tensor.tolist()

    def most(self, *values: float) -> list[float]:
        """The largest of each value over the processes."""
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device())
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def average(self, *values: float) -> list[float]:
        """Means over the processes."""
        return [value / self.size for value in self.sum(*values)]

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """(whether any process wants to stop, the longest time any has spent): the same everywhere."""
        stopping, longest = self.most(float(stop), seconds)
        return bool(stopping), longest

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, on every process."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the first one's values of parameters that are not sharded."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, src=0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients of parameters that are not sharded over the processes; one without any counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

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

"""Several processes train one policy: weights, gradients and optimiser state are sharded (FSDP2), samples are divided.

Started by `torchrun`, which sets RANK and WORLD_SIZE; without it there is one process and nothing here acts.

Every pass through a sharded network is a joint act: its weights are gathered from all processes. Processes whose work
differs in size (rollouts end early, a group is left out) are therefore kept in step: `in_step` for passes without
gradient, whose number nobody knows beforehand, and `blank` for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

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
from torch.distributed.tensor import DTensor, distribute_tensor

from gymnast_core.errors import GymnastError
from gymnast_core.policy.model import OpenVLA, PromptBatch

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""How long one process waits for another: a judge that retries may keep one busy for long."""
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)


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

    @contextmanager
    def in_step(self, model: nn.Module) -> Iterator[None]:
        """Inside, each process may call a sharded model without gradient as often as it likes.

        Before every pass it tells the others; who is done makes blank passes until all are. Not for passes with
        gradient. An exception ends the process's part at once, and the others then wait: it must end the run.
        """
        if not is_sharded(model):
            yield
            return

        def tell(*_: object) -> None:
            self.most(1.0)

        hook = model.register_forward_pre_hook(tell, prepend=True)  # before FSDP's own, which gathers the weights
        try:
            yield
        finally:
            hook.remove()
        while self.most(0.0)[0]:
            self.blank(model, gradient=False)

    def blank(self, model: nn.Module, gradient: bool) -> None:
        """One pass over nothing, for a process without work when others have some; `gradient`: and back, loss 0."""
        assert isinstance(model, OpenVLA)
        config, weight = model.config, model.projector.fc1.weight
        pixels = torch.zeros(1, 6, config.image_size, config.image_size, device=weight.device, dtype=weight.dtype)
        prompts = PromptBatch.of([[config.bos_token_id] * 2], config.pad_token_id, weight.device)
        with torch.set_grad_enabled(gradient):
            logits = model(pixels, prompts)
            if gradient:
                (logits.sum() * 0.0).backward()

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


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are divided among processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be sharded, in one piece on every process (which all have to ask for it)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor, sharded as `other` is; the tensor itself where `other` is whole."""
    if not isinstance(other, DTensor):
        return tensor.to(other.device)
    placed = tensor.to(other.device)
    return distribute_tensor(placed, other.device_mesh, other.placements, src_data_rank=None)


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

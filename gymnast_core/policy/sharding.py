"""A policy divided among processes (FSDP2): passes kept in step, weights and optimiser state gathered and given out.

Every pass through a sharded network is a joint act: its weights are gathered from all processes. Processes whose work
differs in size (rollouts end early, a group is left out) are therefore kept in step: `in_step` for passes without
gradient, whose number nobody knows beforehand, and `blank_pass` for the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gymnast_core.policy.model import OpenVLA, PromptBatch
from gymnast_core.ranks import Ranks


def _is_divided(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor. What makes them is imported where it is used: it takes a second, and one process alone
    needs none of it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are divided among processes."""
    return any(_is_divided(parameter) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be sharded, in one piece on every process (which all have to ask for it)."""
    return tensor.full_tensor() if _is_divided(tensor) else tensor  # type: ignore[attr-defined,no-any-return]


def divided_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor, sharded as `other` is; the tensor itself where `other` is whole."""
    if not _is_divided(other):
        return tensor.to(other.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    placed = tensor.to(other.device)
    return distribute_tensor(placed, other.device_mesh, other.placements, src_data_rank=None)


def _gathered() -> Any:
    """Options: whole, on the CPU of the first process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _given_out() -> Any:
    """Options: whole on the first process, and what is not named stays."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights, gathered on the CPU of the first process (empty on the others)."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    state: dict[str, torch.Tensor] = get_model_state_dict(model, options=_gathered())  # type: ignore[assignment]
    return state


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by parameter name, gathered on the first process."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return get_optimizer_state_dict(model, optimizer, options=_gathered())


def load_whole_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give every process its shard of the first one's weights; names that are not in `state` stay as they are."""
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    set_model_state_dict(model, dict(state), options=_given_out())


def load_whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """The same for the optimiser."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    set_optimizer_state_dict(model, optimizer, dict(state), options=_given_out())


def shard(ranks: Ranks, model: OpenVLA) -> None:
    """Shard every block and then the rest; a no-op for one process. Compute is bfloat16 on a GPU."""
    if ranks.size == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

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
def in_step(ranks: Ranks, model: nn.Module) -> Iterator[None]:
    """Inside, each process may call a sharded model without gradient as often as it likes.

    Before every pass it tells the others; who is done makes blank passes until all are. Not for passes with
    gradient. An exception ends the process's part at once, and the others then wait: it must end the run.
    """
    if not is_sharded(model):
        yield
        return

    def tell(*_: object) -> None:
        ranks.most(1.0)

    hook = model.register_forward_pre_hook(tell, prepend=True)  # before FSDP's own, which gathers the weights
    try:
        yield
    finally:
        hook.remove()
    while ranks.most(0.0)[0]:
        blank_pass(model, gradient=False)


def forget_gathered(model: nn.Module) -> None:
    """Let the next pass gather the weights anew, after they were changed by hand; a no-op without shards."""
    if is_sharded(model):
        for module in model.modules():
            if (reshard := getattr(module, "reshard", None)) is not None:
                reshard()


def blank_pass(model: nn.Module, gradient: bool) -> None:
    """One pass over nothing, for a process without work when others have some; `gradient`: and back, loss 0."""
    assert isinstance(model, OpenVLA)
    config, weight = model.config, model.projector.fc1.weight
    pixels = torch.zeros(1, 6, config.image_size, config.image_size, device=weight.device, dtype=weight.dtype)
    prompts = PromptBatch.of([[config.bos_token_id] * 2], config.pad_token_id, weight.device)
    with torch.set_grad_enabled(gradient):
        logits = model(pixels, prompts)
        if gradient:
            (logits.sum() * 0.0).backward()

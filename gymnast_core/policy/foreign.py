"""Tensors of a policy checkpoint that the network here does not have: which may be left out, and what the others are.

Left out, because they take no part in acting: the critic that reinforcement learning trained beside the policy, and
buffers of rotary frequencies that older versions of transformers saved, as long as they are what config.json says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from gymnast_core.errors import CheckpointError
from gymnast_core.policy.config import LanguageConfig
from gymnast_core.tensor_files import TensorInfo, open_tensors

CRITICS = ("value_head.", "v_head.", "q_head.", "critic.", "critic_head.", "value_net.", "value_function.")
FREQUENCIES = "rotary_emb.inv_freq"
# What stands in the name of a tensor of another kind of checkpoint.
OTHERS = (
    (("lora_A", "lora_B", "lora_embedding", ".base_layer."), "a LoRA adapter that is not merged; merge it first"),
    (("action_head.", "action_queries", "action_model."), "a regression or diffusion head"),
    (("noisy_action_projector.",), "a diffusion head"),
    (("proprio_projector.", "proprio_encoder."), "proprioceptive input"),
    (("film_", ".film.", ".scale.weight", ".shift.weight"), "language-modulated vision (FiLM)"),
    (("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module."), "the names of a wrapped model"),
)


def leave_out(
    found: Mapping[str, TensorInfo], needed: Iterable[str], config: LanguageConfig, folder: object
) -> tuple[str, ...]:
    """Names of found tensors that take no part in acting.

    Raises: CheckpointError when any other is not needed, saying what it belongs to, or when rotary frequencies are not
        those of config.json.
    """
    known = set(needed)
    others = [name for name in found if name not in known]
    spare = [name for name in others if name.startswith(CRITICS) or name.endswith(FREQUENCIES)]
    strange = sorted(set(others) - set(spare))
    if strange:
        raise CheckpointError(f"{found[strange[0]].path}: {_explain(strange, known, folder)}")
    for name in spare:
        if name.endswith(FREQUENCIES):
            _check_frequencies(name, found[name], config)
    return tuple(sorted(spare, key=lambda name: (name.endswith(FREQUENCIES), name)))


def _explain(strange: list[str], known: set[str], folder: object) -> str:
    more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
    for marks, what in OTHERS:
        if named := next((name for name in strange if any(mark in name for mark in marks)), None):
            return f"this checkpoint has {what}: '{named}'{more}; needed are the policy's own weights alone"
    parts = strange[0].split(".")
    for first in range(1, len(parts)):
        if ".".join(parts[first:]) in known:
            prefix = ".".join(parts[:first])
            return f"its tensors are named '{prefix}.' and then as needed: save the model inside '{prefix}'"
    return f"tensor '{strange[0]}'{more} is not part of this architecture"


def _check_frequencies(name: str, info: TensorInfo, config: LanguageConfig) -> None:
    with open_tensors(info.path) as archive:
        saved = archive.get_tensor(name).float().flatten()
    width = config.width // config.heads
    own = 1.0 / config.rope_theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if saved.shape != own.shape or not torch.allclose(saved, own, rtol=0.01):
        raise CheckpointError(
            f"{info.path}: '{name}' holds other rotary frequencies than config.json's rope_theta {config.rope_theta:g}"
        )

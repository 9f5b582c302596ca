"""Llama with bidirectional attention, under the key names of Hugging Face checkpoints.

OpenVLA-OFT decodes a whole chunk of actions in one forward: every position sees every other one, padding excepted. A
stock Llama is causal and would silently give a different model, so the attention is written out here; nothing is
cached, because nothing is decoded step by step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gymnast_core.policy.config import LanguageConfig
from gymnast_core.policy.layers import RMSNorm

Rotation = tuple[torch.Tensor, torch.Tensor]


def rotary(length: int, head_width: int, theta: float, device: torch.device) -> Rotation:
    """Cosines and sines (length, head_width) float32 of the rotary position embedding (RoFormer, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * (1.0 / theta**exponent)[None]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn pairs (i, i + head_width / 2) of x (B, heads, L, head_width) by their position's angle."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cosine.to(x.dtype) + torch.cat([-second, first], dim=-1) * sine.to(x.dtype)


def take(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows `positions` (B, n) of x (B, L, D)."""
    return x.gather(1, positions[:, :, None].expand(-1, -1, x.shape[2]))


class SelfAttention(nn.Module):
    """Grouped-query attention without a causal mask."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.key_value_heads = config.key_value_heads
        self.head_width = config.width // config.heads
        self.q_proj = nn.Linear(config.width, config.heads * self.head_width, bias=False)
        self.k_proj = nn.Linear(config.width, config.key_value_heads * self.head_width, bias=False)
        self.v_proj = nn.Linear(config.width, config.key_value_heads * self.head_width, bias=False)
        self.o_proj = nn.Linear(config.heads * self.head_width, config.width, bias=False)

    def forward(
        self, x: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, positions: torch.Tensor | None
    ) -> torch.Tensor:
        batch = x.shape[0]
        asking = x if positions is None else take(x, positions)
        query = self.q_proj(asking).view(batch, -1, self.heads, self.head_width).transpose(1, 2)
        key = self.k_proj(x).view(batch, -1, self.key_value_heads, self.head_width).transpose(1, 2)
        value = self.v_proj(x).view(batch, -1, self.key_value_heads, self.head_width).transpose(1, 2)
        cosine, sine = rotation
        asking_rotation = rotation if positions is None else (cosine[positions][:, None], sine[positions][:, None])
        y = F.scaled_dot_product_attention(
            rotate(query, asking_rotation),
            rotate(key, rotation),
            value,
            attn_mask=mask,
            enable_gqa=self.heads != self.key_value_heads,
        )
        return self.o_proj(y.transpose(1, 2).reshape(batch, asking.shape[1], -1))


class GatedMlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.down_proj = nn.Linear(config.mlp_hidden, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm block; with `positions` (B, n) given, only those come out."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = GatedMlp(config)
        self.input_layernorm = RMSNorm(config.width, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.rms_norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        rotation: Rotation,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        y = self.self_attn(self.input_layernorm(x), rotation, mask, positions)
        x = (x if positions is None else take(x, positions)) + y
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Embeddings in, normed states out."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        # Given its weight, the layer draws none: drawing on the meta device imports torch's compiler, for seconds.
        weight = torch.zeros(config.vocab_size, config.width)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width, _weight=weight)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.rms_norm_eps)
        self.recompute_activations = False

    def forward(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Normed states of the last layer.

        embeddings: (B, L, width). mask: (B, 1, 1, L) bool, True where a position may be attended to; None means all.
        positions: (B, n) int64; where given, the last layer is computed for those alone and the result is
            (B, n, width), otherwise (B, L, width).
        states: where given, the input and every layer's output are appended to it.
        """
        head_width = self.config.width // self.config.heads
        rotation = rotary(embeddings.shape[1], head_width, self.config.rope_theta, embeddings.device)
        x = embeddings
        if states is not None:
            states.append(x)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            arguments = (x, rotation, mask, positions if index == last else None)
            if self.recompute_activations and torch.is_grad_enabled():
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
            if states is not None:
                states.append(x)
        return self.norm(x)


class Llama(nn.Module):
    """The language model with its head (untied, no bias)."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

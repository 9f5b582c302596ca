"""The WorldGym diffusion transformer: video latents in, velocity out, one noise level and one action per frame.

Each layer attends within a frame (`s_block`) and then along time at one place of the image (`t_block`, causal).
State-dict names are those of WorldGym's checkpoints. Shapes: B rollouts, T frames, H x W latent cells, C latent
channels, P patches ("tokens") a frame, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gymnast_core.errors import ConfigError
from gymnast_core.world_model.config import SpatialRope, WorldModelConfig

ROPE_BASE = 10_000.0
TIMESTEP_CHANNELS = 256
PLAIN_ATTENTION_KEYS = 96
"""On a CPU, plain matrix products beat the fused kernel up to about this many keys (1.6x in training at 31)."""
FEW_QUERIES = 2
"""Frames of a pass over the cache: the one being drawn, sometimes the finished one before it."""


class TemporalCache:
    """Keys and values of earlier frames for every temporal block, allocated once for a whole window.

    A frame's keys carry their rotary position, so the order of the slots does not matter and the buffer can be a ring.

    keys, values: per layer (B, P, heads, slots, head_dim).
    """

    def __init__(
        self, config: WorldModelConfig, batch: int, tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (batch, tokens, config.num_heads, config.max_frames, config.head_dim)
        with torch.inference_mode(False):  # whoever writes later may be in or out of inference mode
            self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
            self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
        self.batch, self.tokens, self.device, self.dtype = batch, tokens, device, dtype

    def clear(self) -> None:
        """Zero everything: what a mask hides is multiplied by zero, and must be finite for that."""
        for tensor in (*self.keys, *self.values):
            tensor.zero_()

    def copy_rows(self, other: TemporalCache, rows: Tensor) -> None:
        """Take row rows[i] of the other cache's slot 0 as this one's row i. rows: (B,) int64."""
        for ours, theirs in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            ours[:, :, :, 0] = theirs[:, :, :, 0].index_select(0, rows)


Memory = tuple[Tensor, Tensor, Tensor]
"""One layer's keys and values (B, P, heads, slots, head_dim) and the slots (T,) a pass writes to."""


@dataclass(frozen=True)
class CacheStep:
    """How one forward pass uses the cache.

    cache: where keys and values live.
    slots: (T,) int64, the slot that each of the T frames' keys and values go to.
    mask: (T, slots) bool, True where a frame looks.
    """

    cache: TemporalCache
    slots: Tensor
    mask: Tensor

    def memory(self, layer: int) -> Memory:
        return self.cache.keys[layer], self.cache.values[layer], self.slots


def rotary_angles(positions: Tensor, channels: int) -> Tensor:
    """Angles (..., channels / 2) of integer or real positions (...,), float64: position / base^(i / half)."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float64, device=positions.device) / half
    frequencies = torch.exp(-math.log(ROPE_BASE) * exponents)
    return positions.to(torch.float64)[..., None] * frequencies


def spatial_angles(height: int, width: int, head_dim: int, kind: SpatialRope, device: torch.device) -> Tensor:
    """Angles (height * width, head_dim / 2) of the tokens of one frame, rows' half first, float64."""
    if kind == "pixel":
        frequencies = torch.linspace(1.0, 128.0, head_dim // 4, dtype=torch.float64, device=device) * math.pi
        rows = torch.linspace(-1, 1, height, dtype=torch.float64, device=device)[:, None] * frequencies
        columns = torch.linspace(-1, 1, width, dtype=torch.float64, device=device)[:, None] * frequencies
    else:
        rows = rotary_angles(torch.arange(height, device=device), head_dim // 2)
        columns = rotary_angles(torch.arange(width, device=device), head_dim // 2)
    grid = torch.cat((rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)), dim=-1)
    return grid.reshape(height * width, -1)


Rotation = tuple[Tensor, Tensor]


def rotation(angles: Tensor, dtype: torch.dtype) -> Rotation:
    """(cos, sin) of the angles, each (..., head_dim / 2)."""
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn neighbouring channel pairs of x (..., head_dim) by the angles; cos and sin broadcast to the pairs."""
    cos, sin = by
    if x.dtype == torch.float32 and not x.is_cuda and not torch.compiler.is_compiling():
        # One complex product instead of four real ones: a tenth of the frame time at the miniature's size.
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, temporal: bool) -> Tensor:
    """Softmax attention over (B, T or P, heads, L, head_dim); mask (L, keys) is True where a query may look."""
    few = temporal and q.shape[-2] <= FEW_QUERIES
    if few and q.is_cuda and torch.compiler.is_compiling():
        return attend_reading_once(q, k, v, mask)
    if (q.is_cuda and not few) or k.shape[-2] > PLAIN_ATTENTION_KEYS:
        # The fused kernels want four dimensions. Along time a batch has as many sequences as tokens, which may be more
        # than a kernel's batch dimension holds, so they join the heads; within a frame frames join the batch.
        pair = (1, 2) if temporal else (0, 1)
        flat = F.scaled_dot_product_attention(q.flatten(*pair), k.flatten(*pair), v.flatten(*pair), attn_mask=mask)
        return flat.view(q.shape)
    weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        weights = weights.masked_fill(~mask, float("-inf"))
    return torch.matmul(weights.softmax(-1), v)


def attend_reading_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same for one query or two of thousands of short sequences, where only reading keys and values takes time.

    A fused kernel spends a tile of 64 queries on each. As sums, the compiler makes passes of it that read each key and
    value once and write no product; not compiled, it would need memory for every product.
    """
    weights = (q[..., :, None, :].float() * k[..., None, :, :].float()).sum(-1) * q.shape[-1] ** -0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, float("-inf"))
    return (weights.softmax(-1)[..., None] * v[..., None, :, :].float()).sum(-2).to(q.dtype)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        *,
        temporal: bool,
        mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """x (B, T, P, D) -> (B, T, P, D), over P (spatial) or over T and what is remembered (temporal)."""
        b, t, p, d = x.shape
        qkv = self.qkv_proj(x).view(b, t, p, 3, self.num_heads, d // self.num_heads)
        # (3, B, T, heads, P, head) within a frame, (3, B, P, heads, T, head) along time
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5) if temporal else qkv.permute(3, 0, 1, 4, 2, 5)
        q, k = rotate(q, turn), rotate(k, turn)
        if memory is not None:
            keys, values, slots = memory
            k, v = keys.index_copy_(3, slots, k), values.index_copy_(3, slots, v)
        out = attend(q, k, v, mask, temporal=temporal)
        out = out.permute(0, 3, 1, 2, 4) if temporal else out.permute(0, 1, 3, 2, 4)
        result: Tensor = self.out_proj(out.reshape(b, t, p, d))
        return result


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: normalise x (B, T, P, D), then scale and shift per frame (B, T, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Block(nn.Module):
    """A DiT block with adaLN (Peebles & Xie, "Scalable Diffusion Models with Transformers")."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.attn = Attention(dim, num_heads)
        self.ffwd = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        turn: Rotation,
        *,
        temporal: bool,
        mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """x (B, T, P, D), condition (B, T, 1, D) after its SiLU -> (B, T, P, D)."""
        modulation = self.adaLN_modulation[1](condition)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        attended = self.attn(modulated_norm(x, shift_a, scale_a), turn, temporal=temporal, mask=mask, memory=memory)
        x = torch.addcmul(x, gate_a, attended)
        return torch.addcmul(x, gate_f, self.ffwd(modulated_norm(x, shift_f, scale_f)))


class Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.s_block = Block(dim, num_heads)
        self.t_block = Block(dim, num_heads)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        turn_s: Rotation,
        turn_t: Rotation,
        mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """x (B, T, P, D), condition (B, T, 1, D), rotations within a frame and along time -> (B, T, P, D)."""
        x = self.s_block(x, condition, turn_s, temporal=False)
        result: Tensor = self.t_block(x, condition, turn_t, temporal=True, mask=mask, memory=memory)
        return result


class FinalLayer(nn.Module):
    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](condition).chunk(2, dim=-1)
        result: Tensor = self.linear(modulated_norm(x, shift, scale))
        return result


def timestep_embedding(t: Tensor) -> Tensor:
    """Sinusoidal embedding (..., 256) of noise levels t (...,): cosines, then sines, longest period 10 000."""
    half = TIMESTEP_CHANNELS // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.to(torch.float32)[..., None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class WorldModel(nn.Module):
    """Predicts the velocity of every frame, given noisy latents, noise levels and actions (WorldGym)."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.x_proj = nn.Conv2d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.timestep_mlp = nn.Sequential(nn.Linear(TIMESTEP_CHANNELS, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.action_embedder = nn.Linear(config.action_dim, dim)
        self.blocks = nn.ModuleList(Layer(dim, config.num_heads) for _ in range(config.num_layers))
        self.final_layer = FinalLayer(dim, patch * patch * config.in_channels)

    def initialise(self, seed: int) -> None:
        """Fresh weights, reproducibly: Xavier for matrices, zero for every gate and for the output (adaLN-Zero)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)
            elif name.startswith(("timestep_mlp", "action_embedder")):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.xavier_uniform_(parameter.data.flatten(1), generator=generator)

    def tokens(self, height: int, width: int) -> int:
        """Tokens of one latent frame of the given size; ConfigError if patches do not fit."""
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ConfigError(f"world model: latent size {height}x{width} does not divide into patches of {patch}")
        return (height // patch) * (width // patch)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        action: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        step: CacheStep | None = None,
        run_layer: Callable[..., Tensor] = Layer.__call__,
    ) -> Tensor:
        """Velocity of every frame.

        x: (B, T, H, W, C) noisy latents. t: (B, T) integer noise levels. action: (B, T, action_dim), WorldGym scaling.
        positions: (T,) time of each frame in frames, default 0 .. T - 1; only differences matter.
        mask: (T, T) bool, True where frame i may see frame j; default causal. step: keys and values of earlier frames,
        with its own mask. run_layer: calls a layer with its arguments (compiled, for instance).
        Returns (B, T, H, W, C).
        """
        b, frames, height, width, channels = x.shape
        patch, config = self.config.patch_size, self.config
        rows, columns = height // patch, width // patch
        dtype = self.x_proj.weight.dtype

        # A convolution whose kernel equals its stride is one matrix product per patch.
        patches = x.view(b, frames, rows, patch, columns, patch, channels).permute(0, 1, 2, 4, 6, 3, 5)
        h = F.linear(
            patches.reshape(b, frames, rows * columns, -1).to(dtype), self.x_proj.weight.flatten(1), self.x_proj.bias
        )
        condition = self.timestep_mlp(timestep_embedding(t).to(dtype)) + self.action_embedder(action.to(dtype))
        condition = F.silu(condition)[:, :, None]

        if positions is None:
            positions = torch.arange(frames, device=x.device)
        if step is not None:
            mask = step.mask
        elif mask is None and frames > 1:
            mask = torch.ones(frames, frames, dtype=torch.bool, device=x.device).tril()
        turn_s = rotation(spatial_angles(rows, columns, config.head_dim, config.spatial_rope, x.device), dtype)
        turn_t = rotation(rotary_angles(positions, config.head_dim), dtype)
        for i, layer in enumerate(self.blocks):
            h = run_layer(layer, h, condition, turn_s, turn_t, mask, None if step is None else step.memory(i))
        out: Tensor = self.final_layer(h, condition)
        out = out.view(b, frames, rows, columns, patch, patch, channels).permute(0, 1, 2, 4, 3, 5, 6)
        return out.reshape(b, frames, height, width, channels)


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())

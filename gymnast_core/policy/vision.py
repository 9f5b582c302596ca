"""The two vision towers, under the key names of OpenVLA checkpoints.

One plain vision transformer serves both: the DINOv2-like tower has class and register tokens and LayerScale, the
SigLIP-like one has neither. Features are the second-to-last block's output without final norm, so the last block, the
final norm and SigLIP's pooling head are in the checkpoint but take no part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from gymnast_core.policy.config import TowerConfig

LAYER_NORM_EPS = 1e-6


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale_factor


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two layers with the exact (erf) GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config.width, config.mlp_hidden)
        self.ls1 = LayerScale(config.width) if config.layer_scale else nn.Identity()
        self.ls2 = LayerScale(config.width) if config.layer_scale else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """One linear map a patch, written as the strided convolution checkpoints hold."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class AttentionPool(nn.Module):
    """SigLIP's pooling head: held so that checkpoints load and save whole; OpenVLA never calls it."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(config.width, config.mlp_hidden), "fc2": nn.Linear(config.mlp_hidden, config.width)}
        )


class VisionTransformer(nn.Module):
    """One tower: (B, 3, S, S) normalised pixels to (B, (S / patch)^2, width) features."""

    def __init__(self, config: TowerConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        if config.register_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
            self.reg_token = nn.Parameter(torch.zeros(1, config.register_tokens, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // config.patch_size) ** 2, config.width))
        self.patch_embed = PatchEmbed(config.width, config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)

    @property
    def n_prefix(self) -> int:
        """Class and register tokens in front of the patches."""
        return 1 + self.config.register_tokens if self.config.register_tokens else 0

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """What enters block 0: patches with their position, class and register tokens (without one) in front."""
        x = self.patch_embed(pixels) + self.pos_embed
        if self.config.register_tokens:
            batch = x.shape[0]
            x = torch.cat([self.cls_token.expand(batch, -1, -1), self.reg_token.expand(batch, -1, -1), x], dim=1)
        return x

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.tokens(pixels)
        for block in self.blocks[:-1]:  # type: ignore[union-attr]
            x = block(x)
        return x[:, self.n_prefix :]


class VisionBackbone(nn.Module):
    """Both towers side by side: channels 0-2 go to the first, 3-5 to the second, features are concatenated."""

    def __init__(self, first: TowerConfig, second: TowerConfig, image_size: int) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(first, image_size)
        self.fused_featurizer = VisionTransformer(second, image_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 6, S, S) to (B, patches, width of both)."""
        return torch.cat([self.featurizer(pixels[:, :3]), self.fused_featurizer(pixels[:, 3:])], dim=2)

"""Sizes of the world model's networks, how they are taught and how they draw: what recipes and checkpoints hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gymnast_core.errors import ConfigError

SpatialRope = Literal["standard", "pixel"]


LARGEST = {
    "in_channels": 256,
    "patch_size": 64,
    "dim": 16_384,
    "num_layers": 256,
    "num_heads": 256,
    "action_dim": 256,
    "max_frames": 1000,
}
"""Of a network that anybody builds: a file that says more is wrong, and would take all memory before that is seen."""


@dataclass(frozen=True)
class WorldModelConfig:
    """Size of the network. The defaults are the full WorldGym model (608 M parameters)."""

    in_channels: int = 16
    """Channels of a latent frame."""
    patch_size: int = 2
    """Side of the square of latent cells that makes one token."""
    dim: int = 1024
    """Width."""
    num_layers: int = 16
    """Layers, each one spatial and one temporal block."""
    num_heads: int = 16
    """Attention heads; dim / num_heads must divide by 4."""
    action_dim: int = 10
    """Length of the action vector that conditions a frame."""
    max_frames: int = 20
    """Length of the sliding window in frames; the frame being drawn counts."""
    spatial_rope: SpatialRope = "standard"
    """Rotary embedding over rows and columns: "standard" (integer positions, base 10 000) or "pixel"
    (coordinates -1 .. 1, frequencies pi .. 128 pi)."""

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ConfigError(f"world model: {name} is {value!r:.40}, must be an integer from 1 to {most}")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 4:
            raise ConfigError(
                f"world model: dim {self.dim} over num_heads {self.num_heads} must give a head size divisible by 4"
            )
        if self.max_frames < 2:
            raise ConfigError("world model: max_frames is 1, must be at least 2 (one frame seen, one drawn)")
        if self.spatial_rope not in ("standard", "pixel"):
            raise ConfigError(f'world model: spatial_rope is {self.spatial_rope!r}, must be "standard" or "pixel"')

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


Objective = Literal["diffusion_forcing", "teacher_forcing"]

NoiseLevels = Literal["uniform", "sampler"]

SolverKind = Literal["ddim", "dpm++"]

SOLVERS: tuple[SolverKind, ...] = get_args(SolverKind)


@dataclass(frozen=True)
class LossConfig:
    """What the network is taught."""

    objective: Objective = "diffusion_forcing"
    """"diffusion_forcing": every frame of a clip has its own noise level (the paper). "teacher_forcing": noisy copies
    of each frame look at the clean past, as in sampling; far better when compute is scarce."""
    noise_levels: NoiseLevels = "uniform"
    """"uniform" over all levels, or "sampler": half of the draws at the very levels of the sampler below."""
    sampler_steps: int = 10
    """DDIM steps that noise_levels "sampler" concentrates on."""
    noisy_copies: int = 1
    """Teacher forcing: noisy copies that share one clean clip."""
    context_noise: float = 0.0
    """Teacher forcing: noise on the clean past after the first frame, each clip's amount drawn from 0 to this many
    standard deviations, so that the network learns to forgive its own errors (as in GameNGen, arXiv 2408.14837)."""
    motion_weight: float = 0.0
    """Extra weight of latent cells that differ from the clip's first frame (0 = none)."""

    def __post_init__(self) -> None:
        if self.objective not in ("diffusion_forcing", "teacher_forcing"):
            raise ConfigError(f'objective is {self.objective!r}, must be "diffusion_forcing" or "teacher_forcing"')
        if self.noise_levels not in ("uniform", "sampler"):
            raise ConfigError(f'noise_levels is {self.noise_levels!r}, must be "uniform" or "sampler"')
        if self.noisy_copies < 1:
            raise ConfigError(f"noisy_copies is {self.noisy_copies}, must be at least 1")
        if not 1 <= self.sampler_steps <= 1000:
            raise ConfigError(f"sampler_steps is {self.sampler_steps}, must be between 1 and 1000")
        if not 0 <= self.context_noise <= 10:
            raise ConfigError(f"context_noise is {self.context_noise}, must be between 0 and 10")
        if not 0 <= self.motion_weight <= 1e6:
            raise ConfigError(f"motion_weight is {self.motion_weight}, must be between 0 and 1000000")


CacheMode = Literal["no_cache", "frame_cache", "exact", "streaming"]

CACHE_MODES: tuple[CacheMode, ...] = get_args(CacheMode)


@dataclass(frozen=True)
class SamplingConfig:
    """How frames are drawn."""

    steps: int = 10
    """Denoising steps per frame."""
    guidance: float = 1.0
    """1 = the conditional prediction alone; above 1 the frames follow the action more closely, at twice the cost."""
    mode: CacheMode = "streaming"
    """What happens once the window slides: streaming (old keys kept), exact (window recomputed); for comparison also
    frame_cache and no_cache."""
    solver: SolverKind = "ddim"
    """"ddim", or "dpm++" (DPM-Solver++(2M)); with one or two steps both give the same."""
    compile: bool = False
    """torch.compile, on a GPU with CUDA graphs: for long runs with an unchanging number of rollouts."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ConfigError(f"sampling: steps is {self.steps}, must be between 1 and 1000")
        if not 0 <= self.guidance <= 100:
            raise ConfigError(f"sampling: guidance is {self.guidance}, must be between 0 and 100")
        if self.mode not in CACHE_MODES:
            raise ConfigError(f"sampling: mode is {self.mode!r}, must be one of {', '.join(CACHE_MODES)}")
        if self.solver not in SOLVERS:
            raise ConfigError(f"sampling: solver is {self.solver!r}, must be one of {', '.join(SOLVERS)}")


@dataclass(frozen=True)
class SmallAutoencoderConfig:
    """Size of the small autoencoder: 4 x 4 pixels become one latent cell."""

    image_size: int = 64
    """Side of the frames in pixels, divisible by 4."""
    latent_channels: int = 6
    """Channels of a latent cell."""
    width: int = 64
    """Channels at the coarse resolution; half of it at the finer one."""

    def __post_init__(self) -> None:
        if not 12 <= self.image_size <= 8192 or self.image_size % 4:  # 11 pixels are the window of the picture errors
            raise ConfigError(
                f"autoencoder: image_size is {self.image_size!r:.40}, must be from 12 to 8192 and divisible by 4"
            )
        if not 1 <= self.latent_channels <= 256 or not 2 <= self.width <= 8192 or self.width % 2:
            raise ConfigError(
                f"autoencoder: latent_channels {self.latent_channels!r:.40}, width {self.width!r:.40}: must be "
                "positive and at most 256 and 8192, width even"
            )

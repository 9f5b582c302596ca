"""Noise schedule, velocity target, training losses and solvers (WorldGym; "Diffusion Forcing", arXiv 2407.01392).

With abar the cumulative signal share of a noise level: x_t = sqrt(abar) x + sqrt(1 - abar) eps and the network predicts
v = sqrt(abar) eps - sqrt(1 - abar) x (Salimans & Ho, arXiv 2202.00512).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gymnast_core.errors import ConfigError
from gymnast_core.world_model.config import SOLVERS, LossConfig, SolverKind

CONTEXT_LEVEL = 14
"""Noise level at which finished frames are presented: scaled by sqrt(abar), no noise added."""


def sigmoid_alphas_cumprod(timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Tensor:
    """abar of every noise level (timesteps,) float32: the sigmoid schedule, betas clipped to [0, 0.999]."""
    time = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64) / timesteps
    low, high = torch.tensor(start / tau).double().sigmoid(), torch.tensor(end / tau).double().sigmoid()
    abar = (high - ((time * (end - start) + start) / tau).sigmoid()) / (high - low)
    abar = abar / abar[0]
    betas = (1 - abar[1:] / abar[:-1]).clamp(0, 0.999)
    return torch.cumprod(1 - betas, dim=0).float()


class Schedule:
    """The 1000 noise levels. `abar` (timesteps,) float32 on the given device."""

    def __init__(self, timesteps: int = 1000, device: torch.device | str = "cpu") -> None:
        if timesteps <= CONTEXT_LEVEL:
            raise ConfigError(f"diffusion: timesteps is {timesteps}, must be over {CONTEXT_LEVEL}")
        self.timesteps = timesteps
        self.abar = sigmoid_alphas_cumprod(timesteps).to(device)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar), sqrt(1 - abar) at t (B, T), shaped (B, T, 1, 1, 1)."""
        abar = self.abar[t][..., None, None, None]
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x, noise (B, T, H, W, C), t (B, T) -> noisy x."""
        signal, spread = self._coefficients(t)
        return signal * x + spread * noise

    def velocity(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target v of clean x and its noise, all (B, T, H, W, C)."""
        signal, spread = self._coefficients(t)
        return signal * noise - spread * x

    def present_context(self, x: Tensor) -> Tensor:
        """Finished latents as the network is shown them: scaled to CONTEXT_LEVEL."""
        return x * self.abar[CONTEXT_LEVEL].sqrt()

    def sampling_levels(self, steps: int) -> list[int]:
        """Levels from noisy to clean, steps + 1 of them, the last -1 (clean): linspace(-1, last, steps + 1)."""
        if not 1 <= steps <= self.timesteps:
            raise ConfigError(f"diffusion: sampling steps is {steps}, must be between 1 and {self.timesteps}")
        return [int(v) for v in torch.linspace(-1, self.timesteps - 1, steps + 1, dtype=torch.float64)][::-1]


class Solver:
    """Turns velocities into one frame's way from noise to clean, a step a level; `begin` again for every frame.

    Both kinds predict the clean latents x0 = sqrt(abar) x - sqrt(1 - abar) v and move to the next level by
    x <- p x + q x0 + r x0_before. With alpha = sqrt(abar), sigma = sqrt(1 - abar), primes for the next level:

    - "ddim" (Song et al., arXiv 2010.02502, eta 0): p = sigma' / sigma, q = alpha' - alpha p, r = 0. First order.
    - "dpm++" (DPM-Solver++(2M), Lu et al., arXiv 2211.01095, Algorithm 2): with lambda = log(alpha / sigma),
      h = lambda' - lambda and h_before of the step before, x0 becomes x0 + (x0 - x0_before) h / (2 h_before). Second
      order. The first step knows no step before it and at the last one h is infinite, so these two are DDIM's: with one
      or two steps the kinds are the same.
    """

    def __init__(self, schedule: Schedule, levels: Sequence[int], kind: SolverKind = "ddim") -> None:
        """levels: from noisy to clean as `Schedule.sampling_levels` gives them; -1 is clean."""
        if kind not in SOLVERS:
            raise ConfigError(f"sampling: solver is {kind!r}, must be one of {', '.join(SOLVERS)}")
        self.levels = tuple(levels)
        self.kind = kind
        abar = [float(schedule.abar[level]) if level >= 0 else 1.0 for level in self.levels]
        alpha, sigma = [math.sqrt(a) for a in abar], [math.sqrt(1 - a) for a in abar]
        self._clean = list(zip(alpha, sigma))
        self._steps: list[tuple[float, float, float]] = []
        before = 0.0
        for i in range(len(abar) - 1):
            p = sigma[i + 1] / sigma[i]
            q, r = alpha[i + 1] - alpha[i] * p, 0.0
            if sigma[i + 1] > 0:
                h = math.log(alpha[i + 1] / sigma[i + 1]) - math.log(alpha[i] / sigma[i])
                if kind == "dpm++" and i > 0:
                    q, r = q * (1 + h / (2 * before)), -q * h / (2 * before)
                before = h
            self._steps.append((p, q, r))
        self._x0: Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self._steps)

    @property
    def foreseen(self) -> Tensor:
        """The clean latents that the last step foresaw."""
        assert self._x0 is not None, "a step first"
        return self._x0

    def begin(self) -> None:
        """Forget the last frame."""
        self._x0 = None

    def step(self, x: Tensor, v: Tensor, index: int) -> Tensor:
        """x at levels[index] and the network's velocity there -> x at levels[index + 1]; one shape."""
        alpha, sigma = self._clean[index]
        p, q, r = self._steps[index]
        x0 = alpha * x - sigma * v
        following = q * x0 if p == 0 else p * x + q * x0
        if r != 0:
            assert self._x0 is not None, "begin, then steps in order"
            following = following + r * self._x0
        self._x0 = x0
        return following


def draw_levels(schedule: Schedule, config: LossConfig, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Independent noise levels (B, T) int64, drawn on the generator's device."""
    device = generator.device
    t = torch.randint(0, schedule.timesteps, shape, generator=generator, device=device)
    if config.noise_levels == "sampler":
        levels = torch.tensor(schedule.sampling_levels(config.sampler_steps)[:-1], device=device)
        pick = levels[torch.randint(0, len(levels), shape, generator=generator, device=device)]
        t = torch.where(torch.rand(shape, generator=generator, device=device) < 0.5, pick, t)
    return t


def motion_weights(x: Tensor, amount: float) -> Tensor:
    """Loss weights (B, T, H, W, 1), mean 1 over each frame: higher where latents left the clip's first frame."""
    change = (x - x[:, :1]).square().mean(-1, keepdim=True)
    weight = 1 + amount * change.clamp(max=1.0)
    return weight / weight.mean(dim=(2, 3), keepdim=True)


def _weighted_mean(error: Tensor, weight: Tensor | None, valid: Tensor | None) -> Tensor:
    """Mean of error^2 (B, T, H, W, C), weighted by (B, T, H, W, 1), over the frames where valid (B, T)."""
    squared = error.square()
    if weight is not None:
        squared = squared * weight
    if valid is None:
        return squared.mean()
    share = valid.to(squared.dtype)
    return (squared.mean(dim=(2, 3, 4)) * share).sum() / share.sum().clamp(min=1)


def diffusion_forcing_loss(
    model: nn.Module,
    schedule: Schedule,
    x: Tensor,
    action: Tensor,
    t: Tensor,
    noise: Tensor,
    motion_weight: float = 0.0,
    valid: Tensor | None = None,
) -> Tensor:
    """Mean squared error of v; x, noise (B, T, H, W, C), action (B, T, A), t (B, T). WorldGym's training loss.

    valid: (B, T) bool, False for frames that pad a short episode.
    """
    v = model(schedule.add_noise(x, noise, t), t, action)
    weight = motion_weights(x, motion_weight) if motion_weight > 0 else None
    return _weighted_mean(v.float() - schedule.velocity(x, noise, t), weight, valid)


def teacher_forcing_mask(frames: int, copies: int, device: torch.device) -> Tensor:
    """(n, n) bool for the sequence [clean 0..T-1, then `copies` noisy runs of frames 1..T-1].

    Clean frames see clean frames up to themselves; noisy frame k sees clean frames before k and itself, nothing else.
    """
    noisy = torch.arange(1, frames, device=device).repeat(copies)
    clean = torch.arange(frames, device=device)
    n = frames + len(noisy)
    mask = torch.zeros(n, n, dtype=torch.bool, device=device)
    mask[:frames, :frames] = clean[:, None] >= clean[None]
    mask[frames:, :frames] = noisy[:, None] > clean[None]
    mask[frames:, frames:] = torch.eye(len(noisy), dtype=torch.bool, device=device)
    return mask


def teacher_forcing_loss(
    model: nn.Module,
    schedule: Schedule,
    x: Tensor,
    action: Tensor,
    t: Tensor,
    noise: Tensor,
    copies: int = 1,
    motion_weight: float = 0.0,
    valid: Tensor | None = None,
    disturbance: Tensor | None = None,
) -> Tensor:
    """Mean squared error of v over the noisy frames, whose past is clean as the sampler shows it.

    x (B, T, H, W, C), action (B, T, A); t (B, copies * (T - 1)) and noise (B, copies * (T - 1), H, W, C) for the noisy
    runs of frames 1 .. T - 1. disturbance: (B, T, H, W, C) added to the past that the noisy frames see, not to targets.
    """
    frames = x.shape[1]
    past = x if disturbance is None else x + disturbance
    later = torch.arange(1, frames, device=x.device).repeat(copies)
    target = x[:, later]
    sequence = torch.cat((schedule.present_context(past), schedule.add_noise(target, noise, t)), dim=1)
    levels = torch.cat((torch.full_like(t[:, :1], CONTEXT_LEVEL).expand(-1, frames), t), dim=1)
    actions = torch.cat((action, action[:, later]), dim=1)
    positions = torch.cat((torch.arange(frames, device=x.device), later))
    mask = teacher_forcing_mask(frames, copies, x.device)
    v = model(sequence, levels, actions, positions=positions, mask=mask)[:, frames:]
    error = v.float() - schedule.velocity(target, noise, t)
    weight = motion_weights(x, motion_weight)[:, later] if motion_weight > 0 else None
    return _weighted_mean(error, weight, None if valid is None else valid[:, later])


@dataclass(frozen=True)
class Noise:
    """All that is random in the loss of a batch (B, T, H, W, C) with n noisy frames.

    t: (B, n) noise levels. noise: (B, n, H, W, C). disturbance: (B, T, H, W, C) of the clean past, None without.
    """

    t: Tensor
    noise: Tensor
    disturbance: Tensor | None = None

    def part(self, rows: slice) -> Noise:
        """The noise of some clips of the batch."""
        return Noise(self.t[rows], self.noise[rows], None if self.disturbance is None else self.disturbance[rows])


def draw_noise(schedule: Schedule, x: Tensor, config: LossConfig, generator: torch.Generator) -> Noise:
    """The noise of a batch x (B, T, H, W, C) for the configured objective."""
    b, frames = x.shape[:2]
    forcing = config.objective == "diffusion_forcing"
    n = frames if forcing else config.noisy_copies * (frames - 1)
    t = draw_levels(schedule, config, (b, n), generator).to(x.device)
    noise = torch.randn((b, n, *x.shape[2:]), generator=generator, device=generator.device).to(x.device)
    disturbance = None
    if config.context_noise > 0 and not forcing:
        amount = torch.rand((b, 1, 1, 1, 1), generator=generator, device=generator.device) * config.context_noise
        disturbance = torch.randn(x.shape, generator=generator, device=generator.device) * amount
        disturbance[:, 0] = 0  # a rollout's first frame is a real one
        disturbance = disturbance.to(x.device)
    return Noise(t, noise, disturbance)


def training_loss(
    model: nn.Module,
    schedule: Schedule,
    x: Tensor,
    action: Tensor,
    config: LossConfig,
    noise: Noise,
    valid: Tensor | None = None,
) -> Tensor:
    """The configured loss of a batch x (B, T, H, W, C), action (B, T, A), valid (B, T), with its drawn noise."""
    if config.objective == "diffusion_forcing":
        return diffusion_forcing_loss(model, schedule, x, action, noise.t, noise.noise, config.motion_weight, valid)
    return teacher_forcing_loss(
        model,
        schedule,
        x,
        action,
        noise.t,
        noise.noise,
        config.noisy_copies,
        config.motion_weight,
        valid,
        noise.disturbance,
    )

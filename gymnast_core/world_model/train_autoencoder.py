"""`gymnast world-model train-autoencoder`: the small autoencoder on the frames of any mix of episode folders.

Dropped, on purpose: adversarial and perceptual losses (they want a second network). Instead, pixels that differ from
their episode's first frame count more, because the gripper is small and everything else stands still.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gymnast_core.config import NotNegative, Positive
from gymnast_core.data.frames import write_image
from gymnast_core.device import choose_device
from gymnast_core.errors import ConfigError
from gymnast_core.progress import console, interruptible, progress_bar
from gymnast_core.run_folder import RunFolder, derive_seed
from gymnast_core.world_model.autoencoder import SmallAutoencoder, SmallAutoencoderConfig, to_unit
from gymnast_core.world_model.checkpoint import load_weights, save_autoencoder
from gymnast_core.world_model.dataset import EpisodeFile, FlatEpisodes, draw_frames, flatten
from gymnast_core.world_model.metrics import psnr


@dataclass(frozen=True)
class AutoencoderTrainConfig:
    """Training of the small autoencoder."""

    run: str = "runs/world_model/autoencoder"
    """Run folder; a second start in the same folder resumes. The result is its subfolder `model`."""
    data: tuple[str, ...] = ()
    """Folders of episodes (gymnast's or WorldGym's layout), each as FOLDER or FOLDER@WEIGHT."""
    cache: str = "runs/cache"
    """Where frames are kept for the next run."""
    model: SmallAutoencoderConfig = field(default_factory=SmallAutoencoderConfig)
    """Size."""
    steps: int = 4000
    """Optimiser steps."""
    seconds: NotNegative = 0.0
    """Time budget; the run ends at whichever of steps and seconds comes first. 0 = no limit."""
    batch: int = 32
    """Frames a step."""
    learning_rate: Positive = 2e-3
    """Peak; warmed up over 50 steps, then a cosine to a hundredth over the steps or the time budget."""
    moving_weight: NotNegative = 8.0
    """Extra weight of pixels that differ from their episode's first frame."""
    latent_noise: NotNegative = 0.05
    """Noise added to the latents in training, in units of their spread, so that the decoder forgives small errors."""
    held_out: float = 0.05
    """Share of the episodes kept for evaluation."""
    checkpoint_seconds: Positive = 120.0
    """How often a resumable checkpoint is written."""
    device: str = "cpu"
    """torch device."""
    seed: int = 0
    """Decides the initial weights and the order of the frames."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(f"steps {self.steps} and batch {self.batch} must be at least 1")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}, must be from 0 to below 1")


def reconstruction_loss(
    model: SmallAutoencoder, frames: Tensor, firsts: Tensor, config: AutoencoderTrainConfig, generator: torch.Generator
) -> Tensor:
    """Weighted error of reconstructing frames (N, 3, S, S) whose episodes began with firsts (N, 3, S, S).

    Squared error sets the PSNR; a share of absolute error keeps edges; latents are pulled lightly towards unit size.
    """
    latents = model.encode_images(frames)
    spread = latents.detach().std() * config.latent_noise
    noise = torch.randn(latents.shape, generator=generator).to(latents) * spread
    error = model.decode_images(latents + noise) - frames
    moved = ((frames - firsts).abs().amax(1, keepdim=True) * 4).clamp(max=1)
    weight = 1 + config.moving_weight * moved
    per_pixel = error.square() + 0.1 * error.abs()
    return (per_pixel * weight).mean() + 1e-4 * latents.square().mean()


def train_autoencoder(config: AutoencoderTrainConfig) -> int:
    """Train, evaluate on held-out episodes, write `model`; returns 0, or 130 when interrupted (resumable)."""
    flat, held = flatten(config.data, size=config.model.image_size, cache=config.cache, held_out=config.held_out)
    folder = RunFolder(config.run, config)
    device = torch.device(choose_device(config.device))
    torch.manual_seed(config.seed)
    model = SmallAutoencoder(config.model).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    step, elapsed = 0, 0.0
    state = folder.load_checkpoint()
    if state is not None:
        load_weights(model, state["model"], f"{folder.path}/checkpoints")
        optimiser.load_state_dict(state["optimiser"])
        step, elapsed = int(state["step"]), float(state["elapsed"])
        console.print(f"resuming at step {step}")

    def save() -> None:
        folder.save_checkpoint(
            step, {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "elapsed": elapsed}
        )

    model.train()
    last_save = time.monotonic()
    running: list[float] = []
    with interruptible() as interrupted, progress_bar() as bar:
        task = bar.add_task("autoencoder", total=config.steps, completed=step, note="")
        while step < config.steps and not (config.seconds and elapsed >= config.seconds) and not interrupted:
            began = time.monotonic()
            rate = learning_rate(config.learning_rate, step, config.steps, elapsed, config.seconds, warmup=50)
            for group in optimiser.param_groups:
                group["lr"] = rate
            draw = np.random.default_rng(derive_seed(config.seed, "frames", step))
            noise = torch.Generator().manual_seed(derive_seed(config.seed, "noise", step))
            frames, firsts = draw_frames(flat, config.batch, draw)
            loss = reconstruction_loss(model, to_unit(frames, device), to_unit(firsts, device), config, noise)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise ConfigError(f"autoencoder: loss is {value} at step {step}; lower learning_rate, then start again")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
            running.append(value)
            elapsed += time.monotonic() - began
            if step % 100 == 0:
                folder.log(step, {"loss": float(np.mean(running)), "learning_rate": rate, "seconds": elapsed})
                running.clear()
            bar.update(task, completed=step, note=f"loss {value:.4f}, {step / max(elapsed, 1e-9):.1f} steps/s")
            if time.monotonic() - last_save > config.checkpoint_seconds:
                save()
                last_save = time.monotonic()
    save()
    if interrupted:
        folder.close()
        return 130
    model.eval()
    _set_scale(model, config, flat)
    result = _evaluate(model, config, held, folder)
    made_by = {
        "command": "gymnast world-model train-autoencoder",
        "step": step,
        "seconds": round(elapsed, 1),
        "data": list(config.data),
        "seed": config.seed,
        **result,
    }
    save_autoencoder(folder.path / "model", model, made_by)
    folder.write_result(made_by)
    folder.close()
    console.print(f"autoencoder: {result} -> {folder.path / 'model'}")
    return 0


def learning_rate(
    peak: float, step: int, steps: int, elapsed: float, seconds: float, *, warmup: int, floor: float = 0.01
) -> float:
    """Linear warm-up, then a cosine from peak to floor * peak over the steps or the seconds, whichever ends first."""
    done = max(step / steps, elapsed / seconds if seconds else 0.0)
    cosine = floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * min(1.0, done)))
    return float(peak * min(1.0, (step + 1) / max(1, warmup)) * cosine)


@torch.no_grad()
def _set_scale(model: SmallAutoencoder, config: AutoencoderTrainConfig, flat: FlatEpisodes) -> None:
    """Store 1 / standard deviation of the latents of 512 training frames."""
    frames, _ = draw_frames(flat, 512, np.random.default_rng(derive_seed(config.seed, "scale")))
    model.latent_scale.fill_(1.0)
    model.latent_scale.fill_(1.0 / float(model.encode(frames).std()))


def _evaluate(
    model: SmallAutoencoder, config: AutoencoderTrainConfig, held: list[EpisodeFile], folder: RunFolder
) -> dict[str, float]:
    """PSNR on held-out frames, of whole frames and of the pixels that moved; writes a sheet of pictures."""

    whole: list[float] = []
    moved: list[float] = []
    strips: list[np.ndarray] = []
    for file in held[:20]:
        frames, _ = file.read(config.model.image_size)
        out = model.decode(model.encode(frames))
        whole.append(psnr(frames, out))
        change = np.abs(frames.astype(np.int16) - frames[:1]).max(-1) > 16
        if change.any():
            moved.append(psnr(frames[change], out[change]))
        if len(strips) < 6:
            pick = np.linspace(0, len(frames) - 1, 8).astype(int)
            strips += [np.concatenate(list(frames[pick]), axis=1), np.concatenate(list(out[pick]), axis=1)]
    if strips:
        write_image(folder.media("reconstructions.png"), np.concatenate(strips, axis=0).repeat(2, 0).repeat(2, 1))
    result = {
        "psnr": float(np.mean(whole)) if whole else float("nan"),
        "psnr_moving": float(np.mean(moved)) if moved else float("nan"),
    }
    return {name: round(value, 2) for name, value in result.items()}

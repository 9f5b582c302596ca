"""`gymnast world-model train-autoencoder`: the small autoencoder on the frames of any mix of episode folders.

Dropped, on purpose: adversarial and perceptual losses (they want a second network). Instead, pixels that differ from
their episode's first frame count more, because the gripper is small and everything else stands still.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.frames import write_image
from gymnast_core.device import choose_device
from gymnast_core.errors import ConfigError
from gymnast_core.progress import console, interruptible, progress_bar
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.autoencoder import SmallAutoencoder, to_unit
from gymnast_core.world_model.checkpoint import load_weights, save_autoencoder
from gymnast_core.world_model.dataset import FlatEpisodes, draw_frames, flatten, read_clip
from gymnast_core.world_model.metrics import psnr
from gymnast_core.world_model.optimisers import decayed_rate
from gymnast_core.world_model.train_autoencoder_config import AutoencoderTrainConfig

WARMUP_STEPS = 50


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
    trainer = AutoencoderTrainer(config)
    if not trainer.train():
        trainer.folder.close()
        return 130
    trainer.finish()
    return 0


class AutoencoderTrainer:
    """One training of the small autoencoder; its methods are the steps. Raises: DataError, ConfigError."""

    def __init__(self, config: AutoencoderTrainConfig) -> None:
        self.config = config
        self.flat, self.held = flatten(
            config.data, size=config.model.image_size, cache=config.cache, held_out=config.held_out
        )
        self.folder = RunFolder(config.run, config)
        self.device = torch.device(choose_device(config.device))
        torch.manual_seed(config.seed)
        self.model = SmallAutoencoder(config.model).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.step, self.elapsed = 0, 0.0
        state = self.folder.load_checkpoint()
        if state is not None:
            load_weights(self.model, state["model"], f"{self.folder.path}/checkpoints")
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
            console.print(f"resuming at step {self.step}")
        self._losses: list[float] = []

    def train(self) -> bool:
        """Steps until they, or the time, are spent; False when the run was asked to stop."""
        config = self.config
        self.model.train()
        last_save = time.monotonic()
        with interruptible() as interrupted, progress_bar() as bar:
            task = bar.add_task("autoencoder", total=config.steps, completed=self.step, note="")
            while not interrupted and not self._spent:
                loss = self.take_step()
                note = f"loss {loss:.4f}, {self.step / max(self.elapsed, 1e-9):.1f} steps/s"
                bar.update(task, completed=self.step, note=note)
                if time.monotonic() - last_save > config.checkpoint_seconds:
                    self.save()
                    last_save = time.monotonic()
        self.save()
        return not interrupted

    def take_step(self) -> float:
        """One optimiser step; its loss. Raises: ConfigError where that is not finite."""
        config, model, began = self.config, self.model, time.monotonic()
        rate = decayed_rate(
            config.learning_rate, self.step, config.steps, self.elapsed, config.seconds, warmup=WARMUP_STEPS
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        draw = np.random.default_rng(derive_seed(config.seed, "frames", self.step))
        noise = torch.Generator().manual_seed(derive_seed(config.seed, "noise", self.step))
        frames, firsts = (to_unit(part, self.device) for part in draw_frames(self.flat, config.batch, draw))
        loss = reconstruction_loss(model, frames, firsts, config, noise)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ConfigError(
                f"autoencoder: loss is {value} at step {self.step}; lower learning_rate, then start again"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._losses.append(value)
        self.elapsed += time.monotonic() - began
        if self.step % 100 == 0:
            metrics = {"loss": float(np.mean(self._losses)), "learning_rate": rate, "seconds": self.elapsed}
            self.folder.log(self.step, metrics)
            self._losses.clear()
        return value

    def save(self) -> None:
        """Write a checkpoint to resume from. Raises: CheckpointError when it cannot be written."""
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "elapsed": self.elapsed}
        self.folder.save_checkpoint(self.step, state)

    def finish(self) -> None:
        """Settle the latents' scale, measure on held-out episodes, write `model` and the result."""
        config, model, folder = self.config, self.model, self.folder
        model.eval()
        _set_scale(model, config, self.flat)
        found = _evaluate(model, config, self.held, folder)
        made_by = {
            "command": "gymnast world-model train-autoencoder",
            "step": self.step,
            "seconds": round(self.elapsed, 1),
            "data": list(config.data),
            "seed": config.seed,
            **found,
        }
        save_autoencoder(folder.path / "model", model, made_by)
        folder.write_result(made_by)
        folder.close()
        console.print(f"autoencoder: {found} -> {folder.path / 'model'}")

    @property
    def _spent(self) -> bool:
        config = self.config
        return self.step >= config.steps or bool(config.seconds and self.elapsed >= config.seconds)


@torch.no_grad()
def _set_scale(model: SmallAutoencoder, config: AutoencoderTrainConfig, flat: FlatEpisodes) -> None:
    """Store 1 / standard deviation of the latents of 512 training frames."""
    frames, _ = draw_frames(flat, 512, np.random.default_rng(derive_seed(config.seed, "scale")))
    model.latent_scale.fill_(1.0)
    model.latent_scale.fill_(1.0 / float(model.encode(frames).std()))


def _evaluate(
    model: SmallAutoencoder, config: AutoencoderTrainConfig, held: list[StoredEpisode], folder: RunFolder
) -> dict[str, float]:
    """PSNR on held-out frames, of whole frames and of the pixels that moved; writes a sheet of pictures."""

    whole: list[float] = []
    moved: list[float] = []
    strips: list[np.ndarray] = []
    for file in held[:20]:
        frames, _ = read_clip(file, config.model.image_size)
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

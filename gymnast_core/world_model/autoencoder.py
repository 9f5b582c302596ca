"""Frames to latents and back, behind one protocol: Stable Diffusion 3's autoencoder and a small one.

Latents are channels last, (N, h, w, C) float32, and about unit variance through one scaling factor, no shift.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.tensor_files import survey
from gymnast_core.world_model.config import SmallAutoencoderConfig


@runtime_checkable
class Autoencoder(Protocol):
    """Encodes and decodes batches of square frames."""

    @property
    def image_size(self) -> int:
        """Side of the frames in pixels."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of one frame's latents."""
        ...

    def encode(self, frames: np.ndarray) -> Tensor:
        """(N, S, S, 3) uint8 RGB -> (N, h, w, C) float32 on the autoencoder's device."""
        ...

    def decode(self, latents: Tensor) -> np.ndarray:
        """(N, h, w, C) -> (N, S, S, 3) uint8 RGB."""
        ...


def check_frames(frames: np.ndarray, size: int) -> None:
    if frames.ndim != 4 or frames.shape[1:] != (size, size, 3) or frames.dtype != np.uint8:
        raise DataError(f"autoencoder: frames are {frames.dtype} {frames.shape}, must be uint8 (N, {size}, {size}, 3)")


def to_unit(frames: np.ndarray, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in -1 .. 1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_frames(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in -1 .. 1 -> (N, H, W, 3) uint8."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(F.relu(self.first(F.relu(x))))
        return result


class SmallAutoencoder(nn.Module):
    """A convolutional autoencoder without normalisation layers, quick to train and to decode on a CPU.

    The decoder adds a learned map over image positions: with a fixed camera the scene's still part costs no capacity.
    """

    latent_scale: Tensor

    def __init__(self, config: SmallAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        width, fine, grid = config.width, config.width // 2, config.image_size // 4
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fine, width, 3, stride=2, padding=1),
            ResidualBlock(width),
            nn.ReLU(),
            nn.Conv2d(width, config.latent_channels, 1),
        )
        self.decoder_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.position_map = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.decoder = nn.Sequential(
            ResidualBlock(width),
            ResidualBlock(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            ResidualBlock(fine),
            nn.ReLU(),
            nn.Conv2d(fine, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("latent_scale", torch.ones(()))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        grid = self.config.image_size // 4
        return grid, grid, self.config.latent_channels

    def encode_images(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in -1 .. 1 -> unscaled latents (N, C, h, w)."""
        result: Tensor = self.encoder(images.contiguous(memory_format=torch.channels_last))
        return result

    def decode_images(self, latents: Tensor) -> Tensor:
        """Unscaled latents (N, C, h, w) -> (N, 3, S, S), about -1 .. 1."""
        hidden = self.decoder_in(latents.contiguous(memory_format=torch.channels_last)) + self.position_map
        result: Tensor = self.decoder(hidden)
        return result

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Tensor:
        check_frames(frames, self.image_size)
        device = self.position_map.device
        parts = [self.encode_images(to_unit(frames[i : i + 64], device)) for i in range(0, len(frames), 64)]
        latents = torch.cat(parts) if parts else torch.empty(0, *self.latent_shape).permute(0, 3, 1, 2)
        return (latents * self.latent_scale).permute(0, 2, 3, 1).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        if tuple(latents.shape[1:]) != self.latent_shape:
            raise DataError(f"autoencoder: latents are {tuple(latents.shape)}, must be (N, *{self.latent_shape})")
        images = latents.to(self.position_map.device).float().permute(0, 3, 1, 2) / self.latent_scale
        parts = [to_frames(self.decode_images(images[i : i + 64])) for i in range(0, len(images), 64)]
        return np.concatenate(parts) if parts else np.empty((0, self.image_size, self.image_size, 3), np.uint8)


class StableDiffusion3Autoencoder:
    """Stable Diffusion 3's autoencoder from a local `diffusers` folder, as WorldGym uses it.

    8 x 8 pixels become one latent cell of 16 channels. Latents are multiplied by the scaling factor of the folder's
    config; the shift that Stable Diffusion 3 itself adds is left out.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        image_size: int = 256,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encode_as: Literal["sample", "mean"] = "sample",
        seed: int = 0,
        batch: int = 8,
    ) -> None:
        """folder: holds `config.json` and weights, itself or in its `vae` subfolder. seed: of the sample drawn. batch:
        frames at a time; one of 256 pixels takes about 0.1 GB in bfloat16.

        Raises CheckpointError if it cannot be loaded, ConfigError on a size that does not fit.
        """
        folder = Path(folder)
        if (folder / "vae").is_dir():
            folder = folder / "vae"
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder}: no config.json; give Stable Diffusion 3's autoencoder (`vae`, diffusers layout)"
            )
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise ConfigError("autoencoder: Stable Diffusion 3's needs the package diffusers, not found") from error
        try:
            self.vae: Any = AutoencoderKL.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, torch_dtype=dtype
            )
        except (OSError, ValueError, RuntimeError) as error:
            survey(sorted(folder.glob("*.safetensors")))  # names the file that is not what its name says
            raise CheckpointError(f"{folder}: not a readable diffusers autoencoder: {error}".splitlines()[0]) from error
        self.vae.to(device).eval().requires_grad_(False)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if image_size % factor:
            raise ConfigError(f"autoencoder: image_size is {image_size}, must be divisible by {factor}")
        if encode_as not in ("sample", "mean"):
            raise ConfigError(f'autoencoder: encode_as is {encode_as!r}, must be "sample" or "mean"')
        self.folder = folder
        self.device = torch.device(device)
        self.dtype = dtype
        self.encode_as = encode_as
        self.seed = seed
        self.batch = batch
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self._size = image_size
        self._shape = (image_size // factor, image_size // factor, int(self.vae.config.latent_channels))

    @property
    def image_size(self) -> int:
        return self._size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self._shape

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Tensor:
        check_frames(frames, self._size)
        generator = torch.Generator().manual_seed(self.seed)
        out = [torch.empty(0, *self._shape, device=self.device)]
        for i in range(0, len(frames), self.batch):
            images = to_unit(frames[i : i + self.batch], self.device).to(self.dtype)
            distribution = self.vae.encode(images).latent_dist
            latents = distribution.mean.float()
            if self.encode_as == "sample":
                noise = torch.randn(latents.shape, generator=generator).to(self.device)
                latents = latents + distribution.std.float() * noise
            out.append(latents.permute(0, 2, 3, 1) * self.scaling_factor)
        return torch.cat(out)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        if tuple(latents.shape[1:]) != self._shape:
            raise DataError(f"autoencoder: latents are {tuple(latents.shape)}, must be (N, *{self._shape})")
        out = [np.empty((0, self._size, self._size, 3), np.uint8)]
        for i in range(0, len(latents), self.batch):
            part = latents[i : i + self.batch].to(self.device, self.dtype).permute(0, 3, 1, 2)
            out.append(to_frames(self.vae.decode(part / self.scaling_factor).sample))
        return np.concatenate(out)

"""Imagined videos of a loaded world model: frames and actions in, latents or frames out.

Noise of rollout i's frame k depends on that rollout's seed and k alone, so what else is in the batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gymnast_core.data.frames import check_frame, resize_frame
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.actions import ACTION_DIM, to_worldgym
from gymnast_core.world_model.checkpoint import LoadedWorldModel
from gymnast_core.world_model.config import SamplingConfig
from gymnast_core.world_model.diffusion import Schedule
from gymnast_core.world_model.sampler import LatentRollout


class Imagination:
    """N rollouts of a world model; `start` with frames, then `step` with one action per rollout."""

    def __init__(self, loaded: LoadedWorldModel, sampling: SamplingConfig | None = None) -> None:
        """sampling: overrides the checkpoint's own."""
        self.loaded = loaded
        sampling = sampling or loaded.sampling
        self.device = loaded.model.x_proj.weight.device
        self._rollout = LatentRollout(
            loaded.model,
            Schedule(device=self.device),
            sampling_steps=sampling.steps,
            guidance=sampling.guidance,
            mode=sampling.mode,
            solver=sampling.solver,
            compile=sampling.compile,
        )
        self._noise: list[torch.Generator] = []
        self.latents: list[Tensor] = []
        """Latents (N, h, w, C) of every frame so far."""
        self.instability: list[Tensor] = []
        """(N,) of every imagined frame, see `LatentRollout.instability`."""
        self._first_frames: np.ndarray = np.empty((0, 0, 0, 3), np.uint8)
        self._rows: Tensor = torch.empty(0, dtype=torch.int64)

    @property
    def size(self) -> int:
        return len(self._noise)

    def start(self, frames: Sequence[np.ndarray], seeds: Sequence[int]) -> None:
        """Begin len(frames) rollouts from frames (H, W, 3) uint8 of any size; equal frames are encoded once."""
        if not frames or len(frames) != len(seeds):
            raise ConfigError(
                f"imagination: {len(frames)} first frames and {len(seeds)} seeds, must be equal and not 0"
            )
        unique: dict[bytes, int] = {}
        images: list[np.ndarray] = []
        rows: list[int] = []
        for i, frame in enumerate(frames):
            check_frame(frame, f"imagination: first frame {i}")
            key = np.ascontiguousarray(frame).tobytes()
            if key not in unique:
                unique[key] = len(images)
                images.append(resize_frame(frame, self.loaded.autoencoder.image_size))
            rows.append(unique[key])
        self._first_frames = np.stack(images)
        self._rows = torch.tensor(rows, device=self.device)
        first = self.loaded.autoencoder.encode(self._first_frames).to(self.device)
        self._rollout.start(first, self._rows)
        self._noise = [torch.Generator().manual_seed(derive_seed("imagination", seed)) for seed in seeds]
        self.latents = [first[self._rows]]
        self.instability = []

    def step(self, actions: np.ndarray) -> Tensor:
        """Imagine one more frame of every rollout: Bridge actions (N, 7) -> latents (N, h, w, C)."""
        if actions.shape != (self.size, 7):
            raise DataError(f"imagination: actions are {actions.shape}, must be ({self.size}, 7)")
        return self.extend(to_worldgym(actions))

    @torch.no_grad()
    def extend(self, vectors: np.ndarray) -> Tensor:
        """Like `step`, with what conditions the frame as the model was trained on it: WorldGym vectors (N, 10)."""
        if not self.latents:
            raise ConfigError("imagination: step before start")
        if vectors.shape != (self.size, ACTION_DIM):
            raise DataError(f"imagination: vectors are {vectors.shape}, must be ({self.size}, {ACTION_DIM})")
        shape = self.latents[0].shape[1:]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in self._noise])
        self.latents.append(self._rollout.extend(torch.from_numpy(vectors).to(self.device), noise))
        self.instability.append(self._rollout.instability)
        return self.latents[-1]

    def decode(self, indices: Sequence[int]) -> np.ndarray:
        """Frames (N, len(indices), S, S, 3) uint8 of the given times; the first frame is the real one, not decoded."""
        size = self.loaded.autoencoder.image_size
        out = np.empty((self.size, len(indices), size, size, 3), np.uint8)
        drawn = [(place, index) for place, index in enumerate(indices) if index > 0]
        if any(not 0 <= index < len(self.latents) for index in indices):
            raise ConfigError(f"imagination: frames {list(indices)} asked for, there are {len(self.latents)}")
        for place, index in enumerate(indices):
            if index == 0:
                out[:, place] = self._first_frames[self._rows.cpu().numpy()]
        if drawn:
            stacked = torch.stack([self.latents[index] for _, index in drawn], dim=1)
            decoded = self.loaded.autoencoder.decode(stacked.flatten(0, 1))
            out[:, [place for place, _ in drawn]] = decoded.reshape(self.size, len(drawn), size, size, 3)
        return out


def imagine(
    loaded: LoadedWorldModel,
    frames: Sequence[np.ndarray],
    vectors: np.ndarray,
    seeds: Sequence[int],
    sampling: SamplingConfig | None = None,
) -> np.ndarray:
    """Whole videos (N, T + 1, S, S, 3) uint8 for first frames (N of them) and WorldGym vectors (N, T, 10)."""
    play = Imagination(loaded, sampling)
    play.start(frames, seeds)
    for k in range(vectors.shape[1]):
        play.extend(vectors[:, k])
    return play.decode(range(vectors.shape[1] + 1))

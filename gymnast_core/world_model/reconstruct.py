"""`gymnast world-model reconstruct`: episodes as the autoencoder shows them, or as the world model imagines them.

A judge or policy that will look at imagined frames can train on these copies, and people see what gets lost. Imagined
copies keep what really happened as their outcome: a judge that learns from them learns what an imagined frame is worth.
They should be of episodes that the world model was not trained on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from gymnast_core.config import Seed, find_model
from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.data.frames import resize_frame, write_bytes, write_image
from gymnast_core.errors import ConfigError
from gymnast_core.progress import progress_bar
from gymnast_core.run_folder import derive_seed
from gymnast_core.world_model.checkpoint import load_autoencoder, load_world_model
from gymnast_core.world_model.dataset import EpisodeFile
from gymnast_core.world_model.evaluate import imagine_episodes


@dataclass(frozen=True)
class ReconstructConfig:
    """Options of `gymnast world-model reconstruct`."""

    data: tuple[str, ...]
    """Folders of gymnast episodes."""
    out: str
    """Folder of the copies; those that are there already are left alone."""
    autoencoder: str = "mini/world_model/autoencoder"
    """A small autoencoder's folder."""
    world_model: str = ""
    """A world model's folder: every frame after the first is imagined on the logged actions. Empty: encoded and decoded
    only."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Episodes imagined side by side."""
    device: str = "auto"
    """torch device."""
    seed: Seed = 0
    """Of the imagination's noise."""


@torch.inference_mode()
def reconstruct(config: ReconstructConfig) -> int:
    """Copy every episode with other frames; actions, states and outcomes stay.

    Raises: ConfigError, CheckpointError, DataError.
    """
    if not config.data:
        raise ConfigError("data: found nothing, needed at least one folder of episodes")
    if config.world_model:
        loaded = load_world_model(config.world_model, config.device, dtype=None)
    else:
        autoencoder = load_autoencoder(find_model(config.autoencoder), device=config.device)
    copies = [
        (folder, Path(config.out) / Path(root).name / folder.relative_to(root))
        for root in config.data
        for folder in find_episodes(root)
    ]
    size = config.batch if config.world_model else 1
    with progress_bar() as bar:
        row = bar.add_task("imagining" if config.world_model else "reconstructing", total=len(copies), note="")
        for begin in range(0, len(copies), size):
            batch = copies[begin : begin + size]
            if not all((target / "episode.json").exists() for _, target in batch):
                if config.world_model:
                    files = [EpisodeFile(folder) for folder, _ in batch]
                    longest = max(read_episode(folder).length for folder, _ in batch)
                    seed = derive_seed(config.seed, begin)
                    videos = [video for _, video in imagine_episodes(loaded, files, longest, seed)]
                else:
                    frames = read_episode(batch[0][0]).frames
                    shown = np.stack([resize_frame(frame, autoencoder.image_size) for frame in frames])
                    videos = [autoencoder.decode(autoencoder.encode(shown))]
                for (folder, target), video in zip(batch, videos, strict=True):
                    _write(folder, target, video)
            bar.advance(row, len(batch))
    return 0


def _write(folder: Path, target: Path, frames: np.ndarray) -> None:
    for index, frame in enumerate(frames):
        write_image(target / "frames" / f"{index:06d}.png", frame)
    lines = (folder / "steps.jsonl").read_bytes().splitlines(keepends=True)
    answered = len(frames) - 1  # imagining ends where the arm went silent
    write_bytes(target / "steps.jsonl", b"".join(line for line in lines if json.loads(line).get("step", 0) < answered))
    shutil.copyfile(folder / "episode.json", target / "episode.json")  # last: it marks the copy as whole

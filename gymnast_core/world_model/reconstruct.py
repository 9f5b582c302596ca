"""`gymnast world-model reconstruct`: episodes as the autoencoder shows them.

A judge or policy that will look at imagined frames can train on these copies, and people see what gets lost.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gymnast_core.config import find_model
from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.data.frames import resize_frame, write_image
from gymnast_core.errors import ConfigError
from gymnast_core.progress import progress_bar
from gymnast_core.world_model.autoencoder import Autoencoder
from gymnast_core.world_model.checkpoint import load_autoencoder


@dataclass(frozen=True)
class ReconstructConfig:
    """Options of `gymnast world-model reconstruct`."""

    data: tuple[str, ...]
    """Folders of gymnast episodes."""
    out: str
    """Folder of the copies; those that are there already are left alone."""
    autoencoder: str = "mini/world_model/autoencoder"
    """A small autoencoder's folder."""


@torch.inference_mode()
def reconstruct(config: ReconstructConfig) -> int:
    """Copy every episode with its frames encoded and decoded again; actions, states and outcomes stay.

    Raises: ConfigError, CheckpointError, DataError.
    """
    if not config.data:
        raise ConfigError("data: found nothing, needed at least one folder of episodes")
    autoencoder = load_autoencoder(find_model(config.autoencoder))
    folders = [(Path(root), folder) for root in config.data for folder in find_episodes(root)]
    with progress_bar() as bar:
        row = bar.add_task("reconstructing", total=len(folders), note="")
        for root, folder in folders:
            target = Path(config.out) / root.name / folder.relative_to(root)
            if not (target / "episode.json").exists():
                _copy(folder, target, autoencoder)
            bar.advance(row)
    return 0


def _copy(folder: Path, target: Path, autoencoder: Autoencoder) -> None:
    frames = np.stack([resize_frame(frame, autoencoder.image_size) for frame in read_episode(folder).frames])
    decoded = autoencoder.decode(autoencoder.encode(frames))
    for index, frame in enumerate(decoded):
        write_image(target / "frames" / f"{index:06d}.png", frame)
    shutil.copyfile(folder / "steps.jsonl", target / "steps.jsonl")
    shutil.copyfile(folder / "episode.json", target / "episode.json")  # last: it marks the copy as whole

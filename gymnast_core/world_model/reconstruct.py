"""`gymnast world-model reconstruct`: episodes as the autoencoder shows them, or as the world model imagines them.

A judge or policy that will look at imagined frames can train on these copies, and people see what gets lost. Imagined
copies keep what really happened as their outcome: a judge that learns from them learns what an imagined frame is worth.
They should be of episodes that the world model was not trained on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gymnast_core.config import find_model
from gymnast_core.data.dataset_writer import to_be_copied
from gymnast_core.data.episode import write_episode
from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import user_path
from gymnast_core.progress import progress_bar
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.checkpoint import load_autoencoder, load_world_model
from gymnast_core.world_model.pictures import imagine_episodes
from gymnast_core.world_model.reconstruct_config import ReconstructConfig


@torch.inference_mode()
def reconstruct(config: ReconstructConfig) -> int:
    """Copy every episode, as a gymnast one, with other frames; actions, states and outcomes stay.

    Raises: ConfigError, CheckpointError, DataError.
    """
    if not config.data:
        raise ConfigError("data: found nothing, needed at least one folder of episodes")
    if config.world_model:
        loaded = load_world_model(config.world_model, config.device, dtype=None)
    else:
        autoencoder = load_autoencoder(find_model(config.autoencoder), device=config.device)
    copies = _copies(config.data, user_path(config.out))
    size = config.batch if config.world_model else 1
    with progress_bar() as bar:
        row = bar.add_task("imagining" if config.world_model else "reconstructing", total=len(copies), note="")
        for begin in range(0, len(copies), size):
            batch = copies[begin : begin + size]
            if not all((target / "episode.json").exists() for _, target in batch):
                sources = [source for source, _ in batch]
                if config.world_model:
                    longest = max(source.count() for source in sources) - 1
                    seed = derive_seed(config.seed, begin)
                    videos = [video for _, video in imagine_episodes(loaded, sources, longest, seed)]
                else:
                    shown = np.stack(list(sources[0].frames(autoencoder.image_size)))
                    videos = [autoencoder.decode(autoencoder.encode(shown))]
                for (source, target), video in zip(batch, videos, strict=True):
                    if not (target / "episode.json").exists():
                        _write(source, target, video)
            bar.advance(row, len(batch))
    return 0


def _copies(roots: Sequence[str], out: Path) -> list[tuple[StoredEpisode, Path]]:
    """Every episode with the folder of its copy. Raises: ConfigError where a copy would take the place of something."""
    copies: dict[Path, StoredEpisode] = {}
    for root in map(user_path, roots):
        for source in find_all(root):
            target = out / root.name / source.path.relative_to(root).parent / source.name
            other = copies.setdefault(target, source)
            if other.path.resolve() != source.path.resolve():
                raise ConfigError(f"data: {other.path} and {source.path} would both be copied to {target}; rename one")
            if target.resolve() == source.path.resolve():
                raise ConfigError(f"out: found {out}, where {target} is an episode of the data; choose another --out")
    return [(source, target) for target, source in copies.items()]


def _write(source: StoredEpisode, target: Path, frames: np.ndarray) -> None:
    """A gymnast episode of these frames and the source's steps before the last of them: imagining ends where the arm
    went silent. It is written beside its place first, so that what is in its place is whole."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    episode, facts = to_be_copied(source)
    write_episode(temporary, replace(episode, frames=frames).until(len(frames) - 1), facts)
    try:
        os.replace(temporary, target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(f"{target}: cannot write: {error.strerror or error}") from error

"""`gymnast world-model rollout`: plays any action sequence from any frame and writes a video.

Actions come from a logged episode (then the true video stands beside the imagined one), from an .npz, or from a sweep
of one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from gymnast_core.data.frames import read_image
from gymnast_core.data.worldgym import read_actions
from gymnast_core.errors import ConfigError
from gymnast_core.progress import console
from gymnast_core.reporting.media import write_video
from gymnast_core.world_model.actions import to_bridge
from gymnast_core.world_model.checkpoint import load_world_model
from gymnast_core.world_model.dataset import EpisodeFile
from gymnast_core.world_model.evaluate import chosen_sampling, sheet_actions
from gymnast_core.world_model.imagine import imagine
from gymnast_core.world_model.metrics import psnr


@dataclass(frozen=True)
class RolloutConfig:
    """What to imagine and where to write it."""

    model: str
    """World-model folder."""
    out: str
    """Video to write (.mp4)."""
    episode: str = ""
    """Episode folder or WorldGym .mp4: its first frame, its actions, and the truth to show beside."""
    frame: str = ""
    """Picture to start from instead of the episode's first frame."""
    actions: str = ""
    """.npz or .npy of actions instead of the episode's: (T, 7) Bridge (metres, radians, gripper 1 = open) or (T, 10)
    WorldGym; an .npz's array `actions` or `arr_0`."""
    sweep: str = ""
    """Constant action instead: still, +x, -x, +y, -y, +z, -z, +yaw, close, or "close, open"."""
    steps: int = 30
    """Frames of a sweep; at most so many of an episode or file."""
    sampling_steps: int = 0
    """Denoising steps; 0 = the model's own."""
    solver: str = ""
    """ddim or dpm++; empty = the model's own."""
    mode: str = ""
    """Cache mode; empty = the model's own."""
    rate_hz: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """Frames a second of the video."""
    scale: int = 4
    """Enlarge the pictures so many times."""
    device: str = "cpu"
    """torch device."""
    seed: int = 0
    """Of the noise."""


def rollout(config: RolloutConfig) -> int:
    """Imagine and write the video; with an episode the left half is the truth. Raises DataError, ConfigError."""
    if config.steps < 1 or config.scale < 1 or not config.rate_hz > 0:
        raise ConfigError(
            f"steps {config.steps} and scale {config.scale} must be at least 1, rate_hz {config.rate_hz} positive"
        )
    if Path(config.out).suffix.lower() != ".mp4":
        raise ConfigError(f"out: found {config.out!r}, needed the name of a video that ends in .mp4")
    if config.actions and config.sweep:
        raise ConfigError("give either --actions or --sweep, not both")
    loaded = load_world_model(config.model, config.device, dtype=None)
    size = loaded.autoencoder.image_size
    truth: np.ndarray | None = None
    actions: np.ndarray | None = None
    frame: np.ndarray | None = None
    if config.episode:
        frames, conditions = EpisodeFile(Path(config.episode)).read(size)
        frame, actions, truth = frames[0], to_bridge(conditions[1:]), frames
    if config.frame:
        frame, truth = read_image(config.frame), None
    if config.actions:
        actions, truth = read_actions(config.actions), None
    elif config.sweep:
        table = sheet_actions(config.steps)
        if config.sweep not in table:
            raise ConfigError(f"sweep is {config.sweep!r}, must be one of {', '.join(map(repr, table))}")
        actions, truth = table[config.sweep], None
    if frame is None or actions is None:
        raise ConfigError("nothing to play: give --episode, or --frame with --actions or --sweep")
    actions = actions[: config.steps]
    sampling = chosen_sampling(loaded, config.sampling_steps, config.mode, config.solver)
    video = imagine(loaded, [frame], actions[None], [config.seed], sampling)[0]
    if truth is not None:
        truth = truth[: len(video)]
        console.print(
            f"last frame: {psnr(truth[-1], video[-1]):.1f} dB, copying the first: {psnr(truth[-1], truth[0]):.1f} dB"
        )
        video = np.concatenate((truth, video), axis=2)
    write_video(config.out, video.repeat(config.scale, 1).repeat(config.scale, 2), config.rate_hz)
    console.print(f"{len(video)} frames -> {config.out}")
    return 0

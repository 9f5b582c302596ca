"""`gymnast world-model rollout`: plays any action sequence from any frame and writes a video.

Actions come from a logged episode (then the true video stands beside the imagined one), from an .npz, or from a sweep
of one axis.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gymnast_core.data.formats import open_episode
from gymnast_core.data.frames import read_image
from gymnast_core.data.worldgym import read_actions
from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path
from gymnast_core.progress import busy, console
from gymnast_core.reporting.media import write_video
from gymnast_core.world_model.actions import to_worldgym
from gymnast_core.world_model.checkpoint import load_world_model
from gymnast_core.world_model.dataset import read_clip
from gymnast_core.world_model.imagine import imagine
from gymnast_core.world_model.metrics import psnr
from gymnast_core.world_model.pictures import chosen_sampling, sheet_actions
from gymnast_core.world_model.play_config import RolloutConfig


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
    with busy("loading world model"):
        loaded = load_world_model(config.model, config.device, dtype=None)
    size = loaded.autoencoder.image_size
    truth: np.ndarray | None = None
    vectors: np.ndarray | None = None
    frame: np.ndarray | None = None
    if config.episode:
        frames, conditions = read_clip(open_episode(user_path(config.episode)), size)
        frame, vectors, truth = frames[0], conditions[1:], frames
    if config.frame:
        frame, truth = read_image(config.frame), None
    if config.actions:
        vectors, truth = to_worldgym(read_actions(config.actions)), None
    elif config.sweep:
        table = sheet_actions(config.steps)
        if config.sweep not in table:
            raise ConfigError(f"sweep is {config.sweep!r}, must be one of {', '.join(map(repr, table))}")
        vectors, truth = to_worldgym(table[config.sweep]), None
    if frame is None or vectors is None:
        raise ConfigError("nothing to play: give --episode, or --frame with --actions or --sweep")
    vectors = vectors[: config.steps]
    sampling = chosen_sampling(loaded, config.sampling_steps, config.mode, config.solver)
    with busy(f"imagining {len(vectors)} frames"):
        video = imagine(loaded, [frame], vectors[None], [config.seed], sampling)[0]
    if truth is not None:
        truth = truth[: len(video)]
        console.print(
            f"last frame: {psnr(truth[-1], video[-1]):.1f} dB, copying the first: {psnr(truth[-1], truth[0]):.1f} dB"
        )
        video = np.concatenate((truth, video), axis=2)
    write_video(config.out, video.repeat(config.scale, 1).repeat(config.scale, 2), config.rate_hz)
    console.print(f"{len(video)} frames -> {config.out}")
    return 0

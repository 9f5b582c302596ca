"""How long a fine-tuning is where nobody says so: by the data, and at most by the model's size.

Two things were measured. Dyna rounds of the shipped miniature drew each frame about 7 to 14 times and made it better. A
canary's ten episodes, each frame drawn 85 to 213 times, made the pictures of other episodes worse (see rounds.md). So a
frame is drawn `PASSES` times. World-Gymnast's own Dyna update is 120,000 steps of a model of 608 million parameters. A
smaller model takes fewer, by the square root of its size: at most 7,700 for the miniature, which took 3,200 to 4,200.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gymnast_core.data.formats import find_all
from gymnast_core.world_model.config import WorldModelConfig
from gymnast_core.world_model.dataset import parse_source, split
from gymnast_core.world_model.model import WorldModel, parameter_count

PASSES = 20
PAPER_STEPS, PAPER_PARAMETERS = 120_000, 607.9e6
LEAST = 20


def usual_steps(data: Sequence[str], held_out: float, model: WorldModelConfig, batch: int, clip_frames: int) -> int:
    """Optimiser steps after which a frame of the folder with the greatest weight was drawn `PASSES` times, from `LEAST`
    to what a model of this size is worth.

    data: FOLDER or FOLDER@WEIGHT. held_out: share of the episodes that train nothing. Raises: DataError, ConfigError.
    """
    sources = [parse_source(source) for source in data]
    frames = [sum(episode.count() for episode in split(find_all(folder), held_out)[0]) for folder, _ in sources]
    weights = [weight for _, weight in sources]
    drawn = sum(weight * count for weight, count in zip(weights, frames)) / max(weights, default=1.0)
    return min(most_steps(model), max(LEAST, math.ceil(PASSES * drawn / (batch * clip_frames))))


def most_steps(model: WorldModelConfig) -> int:
    """The most steps that a model of this size takes by itself: the paper's for the paper's size."""
    with torch.device("meta"):
        parameters = parameter_count(WorldModel(model))
    return max(LEAST, min(PAPER_STEPS, round(PAPER_STEPS * math.sqrt(parameters / PAPER_PARAMETERS))))

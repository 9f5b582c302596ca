"""Options of `gymnast learn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import Seed

GENTLY = 0.05
"""Share of the learning rate of the world model's training: a canary's episodes are few."""


@dataclass(frozen=True)
class LearnConfig:
    """Train a station's world model and learned judges further on its own episodes, above all those of canary trials
    that rolled an adapter back, and measure the gate anew. The run folder then holds `station.yaml`, which names the
    new models and is otherwise the same. Steps and learning rates stand in the station file's `practise` section."""

    data: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of logged episodes of this station. Some of them, by their resets, teach nothing: the gate is measured on
    those (`practise.held_out`)."""
    measure: tuple[str, ...] = ()
    """Folders of further episodes, on which the gate is measured and from which nothing is learned, besides those of
    the station file (`practise.held_out_data`)."""
    earlier: str = ""
    """Run folder of an earlier `gymnast learn` of this station: an episode that measured there measures here, too, and
    one that taught teaches."""
    old_data: tuple[str, ...] = ()
    """Folders of further episodes that are mixed in when the world model learns, each as FOLDER or FOLDER@WEIGHT,
    besides those of the station file (`practise.old_data`)."""
    world_model_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Optimiser steps of the world model. None: as the station file says (`practise.world_model_steps`). 0: by the data
    and the model's size, as `gymnast world-model finetune` does."""
    share: Annotated[float, Field(gt=0, le=1)] = GENTLY
    """Share of the learning rate of the world model's training, where the station file gives no rate."""
    config: str = "simulated_drawer"
    """Station file whose models learn: a path, or the name of a shipped one."""
    run: str = "runs/learn"
    """Run folder; one that was interrupted goes on, and repeats no finished step."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides clips, batches and noise."""

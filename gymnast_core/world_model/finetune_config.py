"""Options of `gymnast world-model finetune`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from gymnast_core.config import NotNegative
from gymnast_core.errors import ConfigError
from gymnast_core.world_model.train_config import TrainConfig

SHARE = 0.25
"""Of the learning rate of the training that came before."""


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Fine-tuning of a world model on episodes of your own station, from `init`.

    The number of steps follows the data and the model's size. The recipe `paper_dyna.yaml` has the 120,000 steps of
    World-Gymnast's Dyna update. The learning rate is a quarter of that of the training before. It warms up, because the
    optimiser starts without its averages. Mix the old data in with a weight (`--data LOGS@4 OLD@1`) to keep what the
    model knew.
    """

    COMMAND: ClassVar[str] = "gymnast world-model finetune"

    run: str = "runs/world_model/finetune"
    """Run folder; a second start in the same folder resumes. The result is its subfolder `model`."""
    steps: int = 0
    """Optimiser steps. 0: until each frame was drawn 20 times, at most 7,700 for the shipped model and 120,000 for
    WorldGym's, in between by the square root of the size."""
    learning_rate: NotNegative = 0.0
    """Learning rate after the warm-up. 0: `share` of the one that `init` was trained with, or of 8e-5 if `init` does
    not say."""
    warmup: int = 500
    """Steps of linear warm-up; at most a tenth of all where `steps` is 0."""
    as_trained: bool = True
    """Take loss, clip length, first action, action dropout, optimiser and sampling from the training of `init`, if its
    folder says them; otherwise as given here. A WorldGym checkpoint says nothing, but the defaults are its own."""

    share: Annotated[float, Field(gt=0, le=1)] = SHARE
    """What the learning rate is of the one that `init` was trained with, where `learning_rate` is 0."""

    @property
    def full_learning_rate(self) -> float:
        return self.learning_rate / self.share

    @property
    def least_steps(self) -> int:
        return 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.init:
            raise ConfigError("init: nothing given, needed a world-model folder or a WorldGym checkpoint to start from")

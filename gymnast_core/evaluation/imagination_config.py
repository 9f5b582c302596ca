"""Options of `gymnast world-model evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from gymnast_core.config import NotNegative
from gymnast_core.rollout.confirmation_config import ConfirmationConfig
from gymnast_core.world_model import pictures_config


@dataclass(frozen=True)
class EvaluateConfig(pictures_config.PicturesConfig):
    """Evaluation of a world model: of its pictures and, with a station file, of its outcomes."""

    config: str = ""
    """Station file: its judge scores imagined outcomes, its policy acts in imagination, and its sampling is used unless
    given here. Empty: pictures only."""
    policy: str = ""
    """Policy checkpoint instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    training: tuple[str, ...] = ()
    """Folders of the episodes that the model was trained on, to measure familiarity; none: those its config names."""
    outcomes: Annotated[int, Field(ge=1)] = 1000
    """At most this many episodes are replayed."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 4
    """Closed-loop rollouts from each first frame of an episode that the policy sampled."""
    temperature: NotNegative = 1.0
    """The policy's temperature in episodes that do not record it; 0: greedy."""
    confirm: ConfirmationConfig = field(default_factory=ConfirmationConfig)
    """What a success must survive to count, as practice will ask it (the recipe's `confirm`)."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Rollouts side by side."""

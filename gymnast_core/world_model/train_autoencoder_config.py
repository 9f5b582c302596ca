"""Options of `gymnast world-model train-autoencoder`."""

from __future__ import annotations

from dataclasses import dataclass, field

from gymnast_core.config import NotNegative, Positive, Seed
from gymnast_core.errors import ConfigError
from gymnast_core.world_model.config import SmallAutoencoderConfig


@dataclass(frozen=True)
class AutoencoderTrainConfig:
    """Training of the small autoencoder."""

    run: str = "runs/world_model/autoencoder"
    """Run folder; a second start in the same folder resumes. The result is its subfolder `model`."""
    data: tuple[str, ...] = ()
    """Folders of episodes (every format that `gymnast data formats` lists), each as FOLDER or FOLDER@WEIGHT; or data
    sets of the Hugging Face Hub, hf:OWNER/NAME or hf:OWNER/NAME@REVISION@WEIGHT."""
    cache: str = "runs/cache"
    """Where frames are kept for the next run."""
    model: SmallAutoencoderConfig = field(default_factory=SmallAutoencoderConfig)
    """Size."""
    steps: int = 4000
    """Optimiser steps."""
    seconds: NotNegative = 0.0
    """Time budget; the run ends at whichever of steps and seconds comes first. 0 = no limit."""
    batch: int = 32
    """Frames per step."""
    learning_rate: Positive = 2e-3
    """Peak; warmed up over 50 steps, then a cosine to a hundredth over the steps or the time budget."""
    moving_weight: NotNegative = 8.0
    """Extra weight of pixels that differ from their episode's first frame."""
    latent_noise: NotNegative = 0.05
    """Noise added to the latents in training, in units of their spread, so that the decoder forgives small errors."""
    held_out: float = 0.05
    """Share of the episodes kept for evaluation."""
    checkpoint_seconds: Positive = 120.0
    """How often a resumable checkpoint is written."""
    device: str = "auto"
    """"cpu", "cuda" or "auto": a GPU where there is one."""
    seed: Seed = 0
    """Decides the initial weights and the order of the frames."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(f"steps {self.steps} and batch {self.batch} must be at least 1")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}, must be from 0 to below 1")

"""Options of `gymnast world-model train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gymnast_core.config import NotNegative, Positive, Seed
from gymnast_core.errors import ConfigError
from gymnast_core.world_model.config import LossConfig, SamplingConfig, WorldModelConfig

OptimiserKind = Literal["adamw", "muon"]


@dataclass(frozen=True)
class TrainConfig:
    """Training of the world model. The values are those of the WorldGym paper; `recipes/` has the miniature's too."""

    COMMAND: ClassVar[str] = "gymnast world-model train"

    run: str = "runs/world_model/train"
    """Run folder; a second start in the same folder resumes. The result is its subfolder `model`."""
    data: tuple[str, ...] = ()
    """Folders of episodes (every format that `gymnast data formats` lists), each as FOLDER or FOLDER@WEIGHT; or data
    sets of the Hugging Face Hub, hf:OWNER/NAME or hf:OWNER/NAME@REVISION@WEIGHT."""
    autoencoder: str = ""
    """A small autoencoder's folder (or a shipped one, mini/world_model/autoencoder), or sd3:FOLDER for the one of
    Stable Diffusion 3. Empty with `init`: that model's own."""
    init: str = ""
    """Start from this: a world-model folder, or a WorldGym training checkpoint (.pt). Empty: fresh weights."""
    cache: str = "runs/cache"
    """Where latents are kept for the next run."""
    image_size: int = 256
    """Frame side in pixels for sd3:FOLDER; the small autoencoder knows its own."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Size; with `init` a folder's own size is used."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is taught."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How evaluation draws frames; stored with the model."""
    clip_frames: int = 20
    """Frames of a training clip; at most `model.max_frames`."""
    first_action_zero: bool = False
    """Give every clip's first frame the zero action, as a rollout's first frame has."""
    steps: int = 580_000
    """Optimiser steps."""
    seconds: NotNegative = 0.0
    """Time budget; the run ends at whichever of steps and seconds comes first. 0 = no limit."""
    batch: int = 16
    """Clips per step."""
    accumulate: int = 1
    """Number of passes that a step's batch is split into, to save memory."""
    optimiser: OptimiserKind = "adamw"
    """"adamw" (the paper), or "muon": matrices inside the blocks are moved by orthogonalised momentum (Muon,
    arXiv 2502.16982, with steps of AdamW's size), the rest by AdamW. The miniature then needs two thirds of the
    steps."""
    learning_rate: Positive = 8e-5
    """Learning rate after the warm-up."""
    decay: bool = False
    """Cosine to a hundredth of the learning rate over the steps or the time budget; otherwise constant."""
    warmup: int = 0
    """Steps of linear warm-up."""
    weight_decay: NotNegative = 0.02
    """Weight decay; it applies to matrices only."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved."""
    action_dropout: float = 0.1
    """Share of clips that are trained as "no action given", which guidance needs."""
    clip_norm: Positive = 1.0
    """Largest gradient norm."""
    bf16: bool = False
    """Compute in bfloat16; weights stay float32. Faster on a GPU, slower on a CPU."""
    compile: bool = False
    """Use torch.compile."""
    held_out: float = 0.05
    """Share of the episodes kept for evaluation, where the data set has no test folders of its own."""
    checkpoint_seconds: Positive = 300.0
    """How often a resumable checkpoint and `model` are written."""
    evaluate_seconds: Positive = 600.0
    """How often held-out episodes are imagined and compared."""
    evaluate_episodes: int = 16
    """Held-out episodes that are compared each time."""
    horizon: int = 30
    """Frames imagined from an episode's first frame in evaluation."""
    device: str = "auto"
    """"cpu", "cuda" or "auto": a GPU where there is one."""
    seed: Seed = 0
    """Decides initial weights, clips and noise."""

    def __post_init__(self) -> None:
        if self.steps < self.least_steps:
            raise ConfigError(f"steps is {self.steps}, must be at least {self.least_steps}")
        for name in ("batch", "accumulate", "clip_frames", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 2 <= self.clip_frames <= self.model.max_frames:
            raise ConfigError(
                f"clip_frames is {self.clip_frames}, must be from 2 to model.max_frames ({self.model.max_frames})"
            )
        if self.batch % self.accumulate:
            raise ConfigError(f"batch {self.batch} must be divisible by accumulate {self.accumulate}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, must be from 0 to below 1")
        for name in ("action_dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be from 0 to below 1")

    @property
    def least_steps(self) -> int:
        """The smallest value of `steps`."""
        return 1

    @property
    def full_learning_rate(self) -> float:
        """What a later fine-tuning takes a share of."""
        return self.learning_rate

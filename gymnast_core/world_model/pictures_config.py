"""Options of a world model's evaluation that concern its pictures."""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.config import Seed
from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class PicturesConfig:
    """Evaluation of a world model."""

    model: str
    """World-model folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    data: tuple[str, ...]
    """Folders of episodes, or hf:OWNER/NAME of the Hugging Face Hub."""
    run: str = "runs/world_model/evaluate"
    """Where pictures and result.json go."""
    held_out: float = 0.05
    """The share that training held out. The same episodes are then used here; 0 uses all episodes."""
    episodes: int = 32
    """At most this many episodes are evaluated."""
    horizon: int = 30
    """Frames to imagine."""
    frame: str = ""
    """Picture for the action sheet; empty: the first frame of the first held-out episode."""
    steps: int = 0
    """Denoising steps; 0 = the model's own."""
    solver: str = ""
    """ddim or dpm++; empty = the model's own."""
    mode: str = ""
    """Cache mode; empty = the model's own."""
    autoencoder: str = ""
    """Only for a WorldGym checkpoint, which holds no autoencoder: "sd3:FOLDER"."""
    device: str = "auto"
    """"cpu", "cuda" or "auto": a GPU where there is one."""
    seed: Seed = 0
    """Decides the noise."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.episodes < 1:
            raise ConfigError(f"horizon {self.horizon} and episodes {self.episodes} must be at least 1")

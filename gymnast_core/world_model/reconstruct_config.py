"""Options of `gymnast world-model reconstruct`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import Seed


@dataclass(frozen=True)
class ReconstructConfig:
    """Options of `gymnast world-model reconstruct`."""

    data: tuple[str, ...]
    """Folders of episodes of any format, or hf:OWNER/NAME of the Hugging Face Hub; the copies are in gymnast's
    own format."""
    out: str
    """Folder of the copies; those that are there already are left alone."""
    autoencoder: str = "mini/world_model/autoencoder"
    """A small autoencoder's folder."""
    world_model: str = ""
    """A world model's folder: every frame after the first is imagined on the logged actions. Empty: frames are only
    encoded and decoded."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Episodes imagined side by side."""
    device: str = "auto"
    """"cpu", "cuda" or "auto": a GPU where there is one."""
    seed: Seed = 0
    """Decides the noise of the imagination."""

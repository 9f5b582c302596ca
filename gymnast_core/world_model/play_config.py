"""Options of `gymnast world-model rollout`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import Seed


@dataclass(frozen=True)
class RolloutConfig:
    """What to imagine and where to write it."""

    model: str
    """World-model folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    out: str
    """Video to write (.mp4)."""
    episode: str = ""
    """An episode of any format (its folder, or WorldGym's .mp4). It gives the first frame, the actions, and the truth
    to show beside the imagination."""
    frame: str = ""
    """Picture to start from instead of the episode's first frame."""
    actions: str = ""
    """.npz or .npy of actions instead of the episode's: (T, 7) Bridge (metres, radians, gripper 1 = open) or (T, 10)
    WorldGym; an .npz's array `actions` or `arr_0`."""
    sweep: str = ""
    """A constant action instead of the episode's: still, +x, -x, +y, -y, +z, -z, +yaw, close, or "close, open"."""
    steps: int = 30
    """Frames to imagine of a sweep; at most this many of an episode or file."""
    sampling_steps: int = 0
    """Denoising steps; 0 = the model's own."""
    solver: str = ""
    """ddim or dpm++; empty = the model's own."""
    mode: str = ""
    """Cache mode; empty = the model's own."""
    rate_hz: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """Frames per second of the video."""
    scale: int = 4
    """Factor by which the pictures are enlarged."""
    device: str = "auto"
    """"cpu", "cuda" or "auto": a GPU where there is one."""
    seed: Seed = 0
    """Decides the noise."""

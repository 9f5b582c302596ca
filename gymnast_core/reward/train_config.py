"""Options of `gymnast judge train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import Fraction, Positive, Seed


@dataclass(frozen=True)
class JudgeTrainConfig:
    """Train the learned judge."""

    data: tuple[str, ...]
    """Folders with logged episodes that have an outcome, or hf:OWNER/NAME of the Hugging Face Hub."""
    out: str
    """Folder the judge is written to."""
    decoded: tuple[str, ...] = ()
    """Further training data: folders with the same episodes, encoded and decoded by the autoencoder or imagined on
    their actions (`gymnast world-model reconstruct`)."""
    init: str = ""
    """Train this judge further: its folder, or a shipped one's name. Size, width, threshold, stride and window are then
    its own. It keeps the instructions that it knows, and learns those of the data besides. Empty: fresh weights."""
    run: str = "runs/judge"
    """Run folder: metrics, checkpoints to resume from."""
    size: Annotated[int, Field(ge=16, le=512)] = 64
    """Side of the square pictures it looks at, pixels."""
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)] = 24
    """Channels of the network's first layer."""
    threshold: Fraction = 0.7
    """A frame above this probability shows the task completed."""
    consecutive: Annotated[int, Field(ge=1, le=100)] = 2
    """This many frames in a row above the threshold make a success."""
    stride: Annotated[int, Field(ge=1)] = 2
    """Distance between the frames that it looks at, counted back from the last one; 1: every frame."""
    window: Annotated[int, Field(ge=1)] = 1000
    """It looks at most at this many last frames of an episode."""
    steps: Annotated[int, Field(ge=1)] = 1500
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=2)] = 64
    """Frames per step."""
    learning_rate: Positive = 1e-3
    """The highest learning rate (AdamW)."""
    garbled: Fraction = 0.1
    """Share of each batch that consists of frames cut into shuffled blocks and labelled as not completed. They teach
    that a picture that fell apart, as a poor world model draws it, is no evidence of success."""
    held_out: Fraction = 0.15
    """Share of the episodes kept for measuring, at least one; 0: none, all of them teach."""
    device: str = "auto"
    """"cpu", "cuda" or "auto"."""
    seed: Seed = 0
    """Decides initial weights, batches, and which episodes are held out."""

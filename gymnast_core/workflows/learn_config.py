"""Options of `gymnast learn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import Seed


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
    config: str = "simulated_drawer"
    """Station file whose models learn: a path, or the name of a shipped one."""
    run: str = "runs/learn"
    """Run folder; one that was interrupted goes on, and repeats no finished step."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides clips, batches and noise."""

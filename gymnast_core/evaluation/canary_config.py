"""Options of `gymnast canary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import Seed

DEFAULT_TRIALS = 16
"""Pairs where neither the station file nor the command line says how many."""


@dataclass(frozen=True)
class CanaryOptions:
    """Canary trials: base and adapter on the same resets, until one is clearly better."""

    adapter: tyro.conf.Positional[str]
    """Name of the adapter, as `gymnast adapter list` shows it."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    task: str = ""
    """Task to try; empty: the one that the adapter was made for."""
    trials: Annotated[int, Field(ge=1, le=1000)] | None = None
    """At most this many pairs of trials. None: as the station file says, or 16."""
    other_trials: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Pairs of trials on each other task. None: as the station file says."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Largest probability of a wrong verdict. None: as the station file says."""
    undecided: str = ""
    """"base" or "adapter": which policy acts when neither is clearly better. Empty: as the station file says."""
    adapters: str = ""
    """Folder of adapters instead of the station's."""
    policy: str = ""
    """Policy checkpoint instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    log: bool = True
    """Keep every episode in the run folder."""
    run: str = ""
    """Run folder; empty: runs/canary/ADAPTER. One that was interrupted goes on, and repeats no trial."""
    seed: Seed = 0
    """Decides the resets and the order within pairs."""

"""Options of `gymnast train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from gymnast_core.config import Positive, Seed


@dataclass(frozen=True)
class TrainConfig:
    """GRPO over many starts. Empty and unset fields are taken from the station file and the recipe."""

    starts: str = ""
    """Folder of start frames (X.png with X.json {"instruction": ...}) or of logged episodes; for imagination."""
    mixture: str = ""
    """Shares of the groups that several folders below `starts` get: "distract", "language" or "scaled"
    (World-Gymnast's), or a YAML file (docs/how-to/augment.md). Empty: every start below `starts` alike."""
    environment: Literal["imagination", "station"] = "imagination"
    """Practise in the world model, or on the simulated station itself with its truth as reward (the upper bound)."""
    tasks: tuple[str, ...] = ()
    """On the station: tasks to practise; none: all."""
    resets: Annotated[int, Field(ge=1)] = 200
    """Different resets of each task on the station."""
    partial_credit: bool = False
    """Reward how far a task has come, not success alone, as `progress_credit: 1` in a recipe does: on the station the
    drawer's travel over the goal's, in imagination what a judge with progress says. Success in the figures stays 0
    or 1."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    run: str = ""
    """Run folder; empty: a new one below runs/train. A run that was interrupted is resumed."""
    recipe: str = ""
    """GRPO recipe: "mini", "paper" or a YAML file; empty: the station file's."""
    horizon: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps of a rollout. None: the recipe's, or in imagination without `recipe` the station file's."""
    updates: Annotated[int, Field(ge=1), tyro.conf.arg(aliases=["--iterations"])] = 100
    """At most this many updates."""
    seconds: Positive = 1e9
    """Training takes at most this long, with its resumptions."""
    policy: str = ""
    """Policy checkpoint instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    world_model: str = ""
    """World model instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    out: str = ""
    """Name of the adapter, or folder of the checkpoint when all weights are trained; empty: by station and time."""
    keep: Literal["last", "best"] = "last"
    """What is saved at the end: the weights after the last update, or those of the checkpoint with the best reward over
    some updates (the recipe's `best_over`)."""
    adapters: str = ""
    """Folder for adapters."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides starts, noise and whatever is sampled."""

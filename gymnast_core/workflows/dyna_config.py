"""Options of `gymnast dyna` and `gymnast dyna status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from gymnast_core.config import PathText, Seed

RUNS = "runs/dyna"


@dataclass(frozen=True)
class DynaOptions:
    """Rounds of learning from a station's logs. In each: broken episodes are left out, the world model is fine-tuned on
    old and new episodes, the judges learn from its imagination, all are measured on real episodes that taught nothing,
    what is not better is not used, the tasks are practised in what is, and the simulated station tries the adapters.
    Started again with the same run folder it goes on, and repeats no finished step. Exit code 1: nothing became
    better."""

    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    logs: tuple[PathText, ...] = ()
    """Folders of logged episodes of this station, looked at anew in each round. None: its `recorder.folder`."""
    old_data: tuple[PathText, ...] = ()
    """Folders of older episodes that are mixed in when the world model learns, each as FOLDER or FOLDER@WEIGHT, besides
    those of the station file (`practise.old_data`)."""
    tasks: tuple[str, ...] = ()
    """Tasks to practise. None: all of the station's."""
    rounds: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Rounds in all. None: as the station file says (`dyna.rounds`)."""
    more: bool = False
    """Do `rounds` further rounds after those that the run folder holds."""
    trajectories: Annotated[int, Field(ge=2, le=100_000)] | None = None
    """At most this many episodes of each task. None, here and in the next two: as the station file says (`dyna`)."""
    world_model_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Optimiser steps of the world model in each round. 0: by the data and the model's size."""
    then: Literal["practise", "train", "nothing"] | None = None
    """What follows the learning: practice of each task, one training over all, or nothing."""
    frames: Annotated[int, Field(ge=1, le=64)] | None = None
    """Start frames of each practice, from logged episodes. None: as the station file says (`adaptation.frames`)."""
    iterations: Annotated[Annotated[int, Field(ge=1)] | None, tyro.conf.arg(aliases=["--updates"])] = None
    """At most this many updates of each practice. None: as the station file says."""
    trials: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Pairs of canary trials of each adapter, on a simulated station; 0: none. None: as the file says, or 16."""
    run: str = ""
    """Run folder. Empty: runs/dyna with the station's name. One that holds rounds goes on."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides learning, practice and resets."""


@dataclass(frozen=True)
class DynaStatusOptions:
    """Print the tree of what was made: world models, judges and adapters, each below what it was made from, with its
    figures and whether it is used."""

    runs: tyro.conf.Positional[tuple[PathText, ...]] = (RUNS,)
    """Run folders of `gymnast dyna`, or folders that hold some."""
    json: bool = False
    """Print one JSON object."""

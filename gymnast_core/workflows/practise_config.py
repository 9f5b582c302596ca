"""Options of `gymnast practise`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import MOST_ROUNDS, Seed


@dataclass(frozen=True)
class PractiseOptions:
    """Practise a task on the simulated station, without ROS: capture start frames, practise in imagination, let the
    robot have the last word in canary trials. Where it rolls the adapter back, world model and judges learn from the
    episodes of the trials, the gate is measured anew, and the task is practised again, for `--rounds` rounds at most.
    Started again with the same run folder it goes on, and repeats no trial and no finished step."""

    task: str
    """Task of the station file."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one. It must be a simulated one."""
    rounds: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] | None = None
    """At most this many rounds of learning and practising again. None: as the station file says (`practise.rounds`)."""
    frames: Annotated[int, Field(ge=1, le=64)] | None = None
    """Start frames of each practice, each of another reset. None: as the station file says (`adaptation.frames`)."""
    trials: Annotated[int, Field(ge=1, le=1000)] | None = None
    """At most this many pairs of canary trials in each round. None: as the station file says, or 16."""
    iterations: Annotated[Annotated[int, Field(ge=1)] | None, tyro.conf.arg(aliases=["--updates"])] = None
    """At most this many updates of each practice. None: as the station file says."""
    run: str = ""
    """Run folder; empty: a new one below runs/practise."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides start frames, practice, resets and learning."""

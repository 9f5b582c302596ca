"""Options of `gymnast policy evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import NotNegative, Seed


@dataclass(frozen=True)
class EvaluatePolicyConfig:
    """Options of `gymnast policy evaluate`."""

    policy: str = "mini/policy"
    """A policy checkpoint's folder or hf:OWNER/NAME of the Hugging Face Hub, recorded actions (.npz), a policy server's
    address (http:// or ws://host:port), or "expert", "random"."""
    config: str = "simulated_drawer"
    """Station file, a path or the name of a shipped one; it needs a simulation section."""
    tasks: tuple[str, ...] = ()
    """Tasks; none: all of the station's."""
    trials: Annotated[int, Field(gt=0)] = 25
    """Trials of each task; the tasks take turns."""
    first_seed: Seed = 500000
    """Trial k has seed first_seed + k."""
    horizon: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Steps after which a trial has failed. None: as the station file says for the task (`max_steps`)."""
    temperature: NotNegative = 0.0
    """0 is greedy."""
    run: str = "runs/evaluation"
    """Run folder. An interrupted evaluation in it is resumed; one with other options is refused."""
    look_ahead: Annotated[int, Field(ge=0, le=1024)] = 0
    """Sampled candidates imagined before each chunk; the best one is executed. The station file's `look_ahead` gives
    horizon and temperature, and `temperature` is not used. 0: act at once."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Processes."""

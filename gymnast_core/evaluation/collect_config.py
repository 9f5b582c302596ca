"""Options of `gymnast data collect`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from gymnast_core.config import Fraction, NotNegative, Seed


@dataclass(frozen=True)
class CollectConfig:
    """Options of `gymnast data collect`."""

    out: str
    """Folder that the episode folders are written into."""
    config: str = "simulated_drawer"
    """Station file, a path or the name of a shipped one; it needs a simulation section."""
    policy: str = "expert"
    """"expert", "mixed" (expert and random in turn), "random", a policy checkpoint's folder or hf:OWNER/NAME of the
    Hugging Face Hub, recorded actions (.npz), or a policy server's address (http:// or ws://host:port)."""
    episodes: Annotated[int, Field(gt=0)] = 100
    """Episodes in `out` at the end; those that lie there or below it already count."""
    tasks: tuple[str, ...] = ()
    """Tasks in turn; none: all of the station's."""
    first_seed: Seed = 0
    """Episode k has seed first_seed + k."""
    horizon: Annotated[int, Field(gt=0, le=1000)] | None = None
    """At most this many steps per episode. None: as the station file says for the task (`max_steps`)."""
    after_success: Annotated[int, Field(ge=0)] = 1000
    """Steps for which an episode goes on after the task is done."""
    keep: Literal["all", "successes"] = "all"
    """Keep every episode, or only those that succeed (others are replaced by further seeds)."""
    noise: NotNegative = 0.0
    """Expert: standard deviation added to translations, metres."""
    slip: Fraction = 0.0
    """Expert: chance per step of a three-step slip."""
    miss: Fraction = 0.0
    """Expert: chance per episode of aiming beside the handle."""
    temperature: NotNegative = 1.0
    """Learned policy: sampling temperature; 0: greedy. Policy servers and scripts are always greedy."""
    look_ahead: Annotated[int, Field(ge=0, le=1024)] = 0
    """Learned policy: sampled candidates imagined before each chunk; the best one is executed. The station file's
    `look_ahead` gives horizon and temperature, and `temperature` is not used. 0: act at once."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Processes."""

"""Options of `gymnast adapter evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from gymnast_core.config import NotNegative, Seed


@dataclass(frozen=True)
class CompareConfig:
    """Trials of a base policy and of its adapter on the same resets of the simulated station."""

    adapter: str
    """Name of the adapter."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    tasks: tuple[str, ...] = ()
    """Tasks to try; none: all of the station."""
    trials: Annotated[int, Field(ge=1)] = 100
    """Trials of each task."""
    policy: str = ""
    """Policy checkpoint instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    adapters: str = ""
    """Folder of adapters instead of the station's."""
    temperature: NotNegative = 0.0
    """0: greedy, as the executor acts."""
    look_ahead: Annotated[int, Field(ge=0, le=1024)] = 0
    """Sampled candidates that both policies imagine before each chunk; the best one is executed. The station file's
    `look_ahead` gives horizon and temperature, and `temperature` is not used. 0: act at once."""
    ending: Literal["truth", "station", "nothing"] = "truth"
    """What ends a trial before its steps are spent: success by the station's truth; what the station file says
    (`executor.stop_at_success`), as in episodes over ROS; or nothing. Success counts at the end of the trial."""
    log: bool = False
    """Keep every episode in the run folder."""
    run: str = ""
    """Run folder; empty: a new one below runs/evaluate_adapter."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides the resets and whatever is sampled; both policies get the same."""

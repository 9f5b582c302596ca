"""Options of `gymnast benchmark transfer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from gymnast_core.config import NotNegative, Positive, Seed


@dataclass(frozen=True)
class TransferConfig:
    """Independent practices of one task for each of a list of recipes, each tried on the same resets of the simulated
    station, which no training saw. Started again with the same run folder it goes on, and repeats nothing finished."""

    task: str
    """Task that is practised. Every other task of the station is tried too: it must not pay."""
    recipes: Annotated[tuple[str, ...], Field(min_length=1)] = ("default",)
    """What the practices differ in: "default" (the station file as it is), a YAML file, or NAME:KEY=VALUE,KEY=VALUE
    (from=FILE among the keys begins with a file). Keys are `frames` and `rehearsal_frames` (captured before practice),
    sections of the station file (`canary.trials`), options of `gymnast adapt` and fields of the GRPO recipe. In a file
    sections are nested. A file of a GRPO recipe is such a file, too."""
    config: str = "simulated_drawer"
    """Station file that the recipes begin from: a path, or the name of a shipped one. It must be a simulated one."""
    frame_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    """Each decides one set of start frames. Recipes share them; of a recipe with more frames the first are the same."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3)
    """Practices from each set of frames, by seed."""
    split: Literal["choose", "report"] = "choose"
    """Frames, practices and resets of one split share no seed with the other's. Choose defaults on "choose"; what is
    reported of the chosen ones is measured on "report"."""
    trials: Annotated[int, Field(ge=1, le=10000)] = 100
    """Resets of each task on which base and adapter are tried."""
    temperature: NotNegative = 0.0
    """Of sampling in trials and canary trials; 0: greedy, as the executor acts."""
    seconds: Positive | None = None
    """Stop after this long; the same command goes on from there. None: until all is done."""
    run: str = ""
    """Run folder; empty: a new one below runs/benchmark_transfer. Recipes and seeds may be added to an earlier run."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""

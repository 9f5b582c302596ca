"""Options of `gymnast policy correlate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import Seed


@dataclass(frozen=True)
class CorrelateConfig:
    """What success in imagination says of real success: over policies, and over starts that both share."""

    imagined: Annotated[tuple[str, ...], Field(min_length=1)]
    """Run folders of `gymnast policy imagine`, one for each policy."""
    real: Annotated[tuple[str, ...], Field(min_length=1)]
    """For each of them, in the same order, a folder with episodes that this policy really played, of any format, with
    known outcomes: a run folder of `gymnast policy evaluate`, or a station's logs. Where the first frames are the same
    as the imagined starts, trials are paired."""
    names: tuple[str, ...] = ()
    """Names of the policies; none: the names of the imagined run folders."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """Bootstrap samples of the policies, for the intervals."""
    seed: Seed = 0
    """Decides the bootstrap samples."""
    run: str = ""
    """Run folder; empty: a new one below runs/correlate."""

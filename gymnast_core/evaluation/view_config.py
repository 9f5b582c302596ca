"""Options of `gymnast data view`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import PathText


@dataclass(frozen=True)
class ViewConfig:
    """Look at episodes, and at imagined rollouts of a practice, on a timeline of Rerun: pictures, the arm, actions,
    verdicts. Needs the extra `view`."""

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], Field(min_length=1)]
    """Episodes or folders of them, of every format that `gymnast data formats` lists, and run folders of practices."""
    out: PathText = ""
    """File to write (.rrd); empty: a new one below runs/data_view."""
    spawn: bool = False
    """Open the viewer of Rerun instead of writing a file."""
    most: Annotated[int, Field(ge=1, le=1000)] = 20
    """At most this many episodes, and this many imagined rollouts of each practice: the latest ones."""
    size: Annotated[int, Field(ge=32, le=1024)] = 256
    """Side in pixels to which pictures are squashed."""

"""Which station file the episodes of a folder were logged under, as their metadata says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from gymnast_core.data.formats import episodes_below
from gymnast_core.errors import DataError

LOOKED_AT = 20
"""Episodes of each folder; a station's logs all name it."""


def station_file_of(folders: Sequence[str]) -> Path | None:
    """The first station file that an episode names and that is still there; None where there is none."""
    for folder in folders:
        for source in islice(episodes_below(folder), LOOKED_AT):
            try:
                named = source.describe().metadata.get("station_file")
            except DataError:
                continue
            if isinstance(named, str) and named and Path(named).is_file():
                return Path(named)
    return None

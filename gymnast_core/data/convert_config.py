"""Options of `gymnast data convert`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import PathText
from gymnast_core.data.dataset_writer import DatasetSettings


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(DatasetSettings):
    """Write episodes anew, as one data set of another format. The episodes themselves stay as they are.

    A conversion that was interrupted, killed or stopped by a full disk goes on when the same command is given again.
    """

    sources: tyro.conf.Positional[Annotated[tuple[PathText, ...], Field(min_length=1)]]
    """Folders of episodes or data sets, of any format that is read, or single episodes."""
    to: str
    """The format to write: see `gymnast data formats`."""
    out: PathText
    """Folder of the new data set. It appears when it is whole."""
    camera: str = ""
    """The camera whose frames are taken, where episodes have several: its column or topic, or the last part of that."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Processes. Each holds one episode in memory, and of films one frame."""

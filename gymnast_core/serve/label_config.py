"""Options of `gymnast data label`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class LabelConfig:
    """Look at logged episodes and say which succeeded, and after which step. Labels lie beside the episodes, whose logs
    stay as they are; a session that ends at any moment goes on where it was."""

    data: tuple[str, ...]
    """Folders of episodes, of every format that `gymnast data formats` lists."""
    page: bool = False
    """Label on a page in the browser, with the film, instead of in the terminal."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Of the page, on this machine alone; 0: any free one. From another machine: ssh -L PORT:localhost:PORT."""
    config: str = ""
    """Station file whose judge looks at each labelled episode, so that its agreement is shown; a judge behind an API
    costs money. Empty: the verdict that was logged with the episode, where there is one."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    who: str = ""
    """Your name, kept with the labels; empty: the name you are logged in with."""
    again: bool = False
    """Show labelled episodes, too."""

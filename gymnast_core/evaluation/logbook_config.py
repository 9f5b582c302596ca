"""Options of `gymnast data list` and `gymnast data show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

OutcomeName = Literal["", "failure", "success", "unjudged", "aborted", "cancelled"]


@dataclass(frozen=True)
class ListEpisodesConfig:
    """List logged episodes, the oldest first: when, task, policy, outcome and who said so, steps, seconds, path."""

    data: tuple[str, ...]
    """Episodes, or folders of them, of every format that `gymnast data formats` lists."""
    task: str = ""
    """Only this task, by its name or its instruction; `*` stands for anything: "*drawer*"."""
    policy: str = ""
    """Only episodes of this policy, as the log names it; `*` stands for anything."""
    outcome: OutcomeName = ""
    """Only episodes that came to this."""
    day: Annotated[str, Field(pattern=r"^(\d{4}(-\d{2}(-\d{2})?)?)?$")] = ""
    """Only this day (YYYY-MM-DD), month (YYYY-MM) or year, in local time."""
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class ShowEpisodeConfig:
    """Show what is known of one episode, what `gymnast data check` finds in it, and a page with its film strip. Exit
    code 1 where something was found."""

    episode: tyro.conf.Positional[str]
    """Its folder, or its file."""
    json: bool = False
    """Print it as JSON."""
    run: str = ""
    """Run folder for the page; empty: a new one below runs/data_show."""

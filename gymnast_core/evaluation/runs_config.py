"""Options of `gymnast runs` and `gymnast runs compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

SortKey = Literal["began", "kind", "task", "outcome", "success"]


@dataclass(frozen=True)
class ListRunsConfig:
    """List every run and episode below a folder, the latest first: when, kind, outcome, success, task, policy, path."""

    folder: tyro.conf.Positional[str] = "runs"
    """Folder that is searched, with all that is below it."""
    kind: str = ""
    """Only this kind: "episode", "adapt", "trials", "canary", "practise", or the name of the folder above the runs."""
    task: str = ""
    """Only this task, by its name or its instruction; `*` stands for anything: "*drawer*"."""
    policy: str = ""
    """Only runs of this policy; `*` stands for anything."""
    outcome: str = ""
    """Only what came to this, such as "success", "failure", "accepted", "base kept" or "unfinished"; `*` stands for
    anything."""
    day: Annotated[str, Field(pattern=r"^(\d{4}(-\d{2}(-\d{2})?)?)?$")] = ""
    """Only this day (YYYY-MM-DD), month (YYYY-MM) or year, in local time."""
    sort: SortKey = "began"
    """What the list is sorted by: the latest or the highest first, names in order."""
    failures: bool = False
    """Failures first."""
    json: bool = False
    """Print the list as JSON, with lineage and figures."""


@dataclass(frozen=True)
class CompareAnyRunsConfig:
    """Compare runs or episodes side by side on one page: figures, curves, films in step, what their configs differ
    in."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], Field(min_length=2, max_length=6)]
    """Two to six folders of runs, or of episodes."""
    out: str = ""
    """Run folder for the page; empty: a new one below runs/compare."""

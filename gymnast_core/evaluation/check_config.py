"""Options of `gymnast data check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckConfig:
    """Find broken episodes and say what is wrong with each, in a report with pictures. No episode is changed without
    --mend. Exit code 0: nothing was found; 1: something was; 2: bad input."""

    data: tuple[str, ...]
    """Episodes, or folders of them, of every format that `gymnast data formats` lists."""
    mend: bool = False
    """Save what is whole of recordings that were cut short or damaged, as `gymnast data recover` does. What it changes
    is kept beside it as `*.damaged`. What it cannot mend stays as it is."""
    json: bool = False
    """Print the result as JSON."""
    run: str = ""
    """Run folder for report.html and result.json; empty: a new one below runs/data_check."""

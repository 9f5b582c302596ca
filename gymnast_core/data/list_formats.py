"""`gymnast data formats`: which formats of episodes are read, and which are written."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gymnast_core.data.formats import formats
from gymnast_core.progress import say


@dataclass(frozen=True)
class ListFormatsConfig:
    """List the formats of episodes."""

    json: bool = False
    """Print one JSON object."""


def list_formats(config: ListFormatsConfig) -> int:
    """Print a line for each format."""
    if config.json:
        found = [
            {"name": one.name, "writes": bool(one.write or one.open_writer), "layout": one.layout} for one in formats()
        ]
        print(json.dumps({"formats": found}))
        return 0
    width = max(len(known.name) for known in formats())
    for known in formats():
        able = "read, write" if known.write or known.open_writer else "read"
        say(f"{known.name:<{width}}  {able:<11}  {known.layout}")
    say("docs/reference/formats.md says what each holds")
    return 0

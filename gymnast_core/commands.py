"""Command lines for people, with real paths, and the one that a verb names as its last line.

The steps from the first logged episodes to an adapter (docs/how-to/real_station.md) are verbs; each names the next.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

YOUR_STATION = "YOUR_STATION.yaml"
"""Stands for a station file that nothing names."""
HELD_OUT = 0.3
"""Of the episodes that fine-tune a world model: a gate needs some of each instruction that trained nothing."""

_next: list[str] = []


def gymnast(verb: str, *words: str | Path, **options: object) -> str:
    """`gymnast VERB WORDS --name value ...`, quoted for a shell. Options that are empty, None or False are left out."""
    line = ["gymnast", *verb.split(), *map(brief, words)]
    for name, value in options.items():
        values = [value] if isinstance(value, (str, Path)) or not isinstance(value, Sequence) else list(value)
        values = [one for one in values if one is not None and one != ""]
        if values and value is not False:
            line += [f"--{name.replace('_', '-')}", *([] if value is True else map(brief, values))]
    return shlex.join(line)


def brief(value: object) -> str:
    """As text; a path below the working directory without it."""
    if isinstance(value, Path) and value.is_absolute():
        relative = os.path.relpath(value)
        return str(value) if relative.startswith(os.pardir) else relative
    return str(value)


def name_next(command: str) -> None:
    """Say which command comes next; `gymnast` prints it as the last line of the verb that is running."""
    _next[:] = [command]


def take_next() -> str:
    """The command that was named, once; empty where none was."""
    found = _next[0] if _next else ""
    _next.clear()
    return found

"""Where a run keeps its small films of imagined rollouts, and what its log says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gymnast_core.files import read_json_lines

FILMS_LOG = "imagined.jsonl"
FILMS = "media/imagined"
"""Folder of the films in a run folder: strips of square frames side by side, JPEG."""


def read_films(run: Path) -> list[dict[str, Any]]:
    """The lines of the films that are still there, in order: a file that was written over belongs to its last line."""
    last = {line["film"]: line for line in read_json_lines(run / FILMS_LOG) if isinstance(line.get("film"), str)}
    kept = sorted(last.values(), key=lambda line: line.get("number", 0))
    return [line for line in kept if "/" not in line["film"] and (run / FILMS / line["film"]).is_file()]

"""What the steps of a long piece of work took, kept on disk, so that resumptions add up."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from gymnast_core.files import append_line, is_number, read_json_lines

FILE = "seconds.jsonl"


@contextlib.contextmanager
def timed(folder: Path, step: str) -> Iterator[None]:
    """Note how long the block takes, also where an exception ends it. Raises: DataError where nothing can be noted."""
    began = time.monotonic()
    try:
        yield
    finally:
        append_line(folder / FILE, json.dumps({"step": step, "seconds": round(time.monotonic() - began, 2)}))


def seconds_spent(folder: Path) -> dict[str, float]:
    """Seconds by step, in the order in which the steps were begun first."""
    spent: dict[str, float] = {}
    for line in read_json_lines(folder / FILE):
        if is_number(line.get("seconds")):
            spent[str(line.get("step"))] = spent.get(str(line.get("step")), 0.0) + float(line["seconds"])
    return spent

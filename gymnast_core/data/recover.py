"""Finish what a crash left open: episode folders marked "recording" and MCAP logs without an index.

`gymnast data recover FOLDER` walks every episode below a folder. Nothing is invented: what was logged up to the crash
is kept, the rest is absent, and the episode is marked incomplete.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gymnast_core.data.episode import iterate_episodes, read_episode, read_header
from gymnast_core.data.frames import write_bytes
from gymnast_core.data.mcap_log import recover_bag
from gymnast_core.errors import DataError

LOG_FOLDER = "log"
"""Name of the bag inside an episode folder."""


@dataclass(frozen=True)
class RecoverConfig:
    """Repair episodes whose recording was cut short."""

    folder: Annotated[Path, tyro.conf.Positional]
    """An episode folder, or a folder of them."""


def recover_episode(folder: Path) -> str:
    """Repair one episode folder and say in one line what it holds.

    Raises: DataError when neither its steps nor its log can be read.
    """
    bag = folder / LOG_FOLDER
    log = ""
    if bag.is_dir() and any(bag.glob("*.mcap")):
        recovery = recover_bag(bag)
        log = f", log of {sum(recovery.counts.values())} messages {'was whole' if recovery.whole else 're-indexed'}"
    path = folder / "episode.json"
    header = read_header(folder)
    was = header.get("status")
    for leftover in [*folder.glob(".*.tmp"), *folder.glob("frames/.*.tmp")]:
        leftover.unlink(missing_ok=True)
    try:
        steps = read_episode(folder, frames=False).length
    except DataError:
        if was == "complete":
            raise
        steps = 0  # stopped before the first frame
    if was == "recording":
        header.update(status="incomplete", steps=steps)
        write_bytes(path, json.dumps(header, indent=1).encode())
    return f"{folder}: {steps} steps, {was if was != 'recording' else 'was cut short, now incomplete'}{log}"


def recover(config: RecoverConfig) -> int:
    """`gymnast data recover`: exit code 0 when every episode below the folder is readable now."""
    episodes = list(iterate_episodes(config.folder))
    if not episodes:
        raise DataError(f"{config.folder}: no episode folder (with an episode.json) below it")
    failures = 0
    for folder in episodes:
        try:
            print(recover_episode(folder))
        except DataError as error:
            failures += 1
            print(f"{folder}: {error}", file=sys.stderr)
    return 2 if failures else 0

"""Finish what a crash or a power cut left open, and save what is whole of a damaged episode.

`gymnast data recover FOLDER` walks every episode below a folder. Nothing is invented: an episode ends at its last step
with a readable picture before and after it, and is marked incomplete when it was cut. The log is saved apart from the
steps: neither keeps the other from being saved, and no episode keeps another one.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from gymnast_core.contents import found_instead
from gymnast_core.data.episode import (
    FRAMES_FOLDER,
    HEADER_FILE,
    START_FILE,
    STEPS_FILE,
    read_episode,
    read_header,
    read_step_line,
    read_step_lines,
)
from gymnast_core.data.frames import read_image
from gymnast_core.data.mcap_read import is_being_written
from gymnast_core.data.recover_log import KEPT, recover_bag
from gymnast_core.errors import DataError, DocumentError
from gymnast_core.files import LONGEST_LINES, files_below, read_whole, write_bytes, write_json
from gymnast_core.plain_json import parse_json

LOG_FOLDER = "log"
"""Name of the bag inside an episode folder."""
EMPTY_FILE = HEADER_FILE + ".empty"
"""The header of a recording without a single readable picture; the folder is no episode any more."""


@dataclass(frozen=True)
class RecoverConfig:
    """Repair episodes whose recording was cut short."""

    folder: Annotated[Path, tyro.conf.Positional]
    """An episode folder, or a folder of them."""


@dataclass
class _Steps:
    """What is readable of steps.jsonl and the pictures.

    lines: the lines to keep, in the order of the file.
    steps: how many steps they make.
    observations: how many pictures with their states.
    problem: why nothing more is readable, empty when everything is.
    lost_steps: whole step lines that are dropped, since no readable picture stands before or after them.
    """

    lines: list[bytes] = field(default_factory=list)
    steps: int = 0
    observations: int = 0
    problem: str = ""
    lost_steps: int = 0


class _NotHere(DataError):
    """A file is whole, but not here or not for us: no damage, and nothing is cut for it."""


def recover_episode(folder: Path) -> str:
    """Repair one episode folder and say in one line what it holds.

    Raises: DataError when its header, its steps or its log cannot be read, or it is being written; everything else of
        it is repaired all the same.
    """
    steps_file = folder / STEPS_FILE
    if steps_file.exists() and is_being_written(steps_file):
        raise DataError(f"{folder}: is being written by a running process; stop the recording first")
    problems: list[str] = []
    told = ""
    try:
        told = _recover_steps(folder)
    except DataError as error:
        problems.append(str(error))
    bag = folder / LOG_FOLDER
    try:
        if bag.is_dir() and any(bag.glob("*.mcap")):
            log = recover_bag(bag).told
            told = f"{told}, {log}" if told else log
    except DataError as error:
        problems.append(f"log: {error}")
    if problems:
        raise DataError("; ".join([*problems, *([f"saved: {told}"] if told else [])]))
    return f"{folder}: {told}"


def needs_recovery(folder: Path) -> bool:
    """Whether the recording of an episode was cut short or its header is damaged."""
    try:
        return read_header(folder).get("status") == "recording"
    except DataError:
        return True


def recordings_below(root: Path) -> list[Path]:
    """Every episode folder below `root`, those that lost their episode.json included; sorted by path."""
    found = {path.parent for name in (HEADER_FILE, START_FILE) for path in files_below(root, name) if path.name == name}
    return sorted(folder for folder in found if (folder / HEADER_FILE).exists() or not (folder / EMPTY_FILE).exists())


def _recover_steps(folder: Path) -> str:
    """Cut an episode to its readable steps and close it; returns what it holds in a few words."""
    header, mended = _header(folder)
    was = header.get("status")
    for leftover in [*folder.glob(".*.tmp"), *folder.glob(f"{FRAMES_FOLDER}/.*.tmp")]:
        leftover.unlink(missing_ok=True)
    found = _readable(folder)
    if found.observations == 0:
        if was == "complete":
            raise DataError(found.problem)
        write_json(folder / EMPTY_FILE, {**header, "status": "incomplete", "steps": 0})
        (folder / HEADER_FILE).unlink(missing_ok=True)
        return f"0 steps and no readable picture ({found.problem}), set aside: its header is {EMPTY_FILE} now"
    counted = header.get("steps")
    short = was != "recording" and isinstance(counted, int) and counted > found.steps  # the last lines are gone
    cut = bool(found.problem)
    if cut:
        content = b"".join(line + b"\n" for line in found.lines)
        steps_file = folder / STEPS_FILE
        kept = steps_file.with_name(STEPS_FILE + KEPT)
        if found.lost_steps and not kept.exists():
            write_bytes(kept, steps_file.read_bytes())
        write_bytes(steps_file, content)
    if was == "recording" or cut or short or mended:
        status = "complete" if was == "complete" and not (cut or short) else "incomplete"
        header.update(status=status, steps=found.steps)
        write_json(folder / HEADER_FILE, header)
    read_episode(folder)  # as every verb does
    text = f"{found.steps} steps, {was if was != 'recording' else 'was cut short, now incomplete'}"
    if short:
        text += f" of {counted}"
    if (cut or short) and was != "recording":
        text += ", now incomplete"
    if mended:
        text += f", {HEADER_FILE} written anew from {START_FILE}"
    return f"{text}; nothing after them is readable ({found.problem})" if cut and found.lost_steps else text


def _header(folder: Path) -> tuple[dict[str, Any], bool]:
    """The header, and whether it comes from what was known at the start. Raises: DataError."""
    try:
        return read_header(folder), False
    except DataError as error:
        path = folder / HEADER_FILE
        with contextlib.suppress(OSError):
            content = read_whole(path).strip(b"\0 \n")
            if content.startswith(b"{") and content.endswith(b"}"):
                raise  # a whole header of another format or version
        try:
            return read_header(folder, START_FILE), True
        except DataError:
            raise error from None


def _readable(folder: Path) -> _Steps:
    """Read steps and pictures up to the first that is damaged.

    Raises: DataError when there is no steps.jsonl, or a picture is whole elsewhere.
    """
    path = folder / STEPS_FILE
    observations: list[tuple[int, bytes]] = []
    steps: list[tuple[int, bytes]] = []
    found = _Steps()
    size: tuple[int, ...] = ()
    texts = read_step_lines(path)
    for number, text in texts:
        try:
            frame = read_step_line(text, len(observations), len(steps), f"{path}:{number}")
            if frame is None:
                steps.append((number, text))
                continue
            picture = _picture(folder / FRAMES_FOLDER / f"{frame:06d}.png", size)
        except _NotHere:
            raise
        except DataError as error:
            found.problem = str(error)
            break
        size = picture.shape[:2]
        observations.append((number, text))
    found.steps = max(0, min(len(steps), len(observations) - 1))
    found.observations = len(observations)
    kept = sorted([*observations[: found.steps + 1], *steps[: found.steps]])
    found.lines = [text for _, text in kept]
    found.lost_steps = sum(1 for _, text in texts if _is_step(text)) - found.steps
    if not found.problem and not observations:
        found.problem = f"{path}: no observation in it"
    return found


def _picture(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """Raises: _NotHere for a pointer or what this user may not read; DataError for one that is damaged or lost."""
    try:
        read_whole(path, LONGEST_LINES)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _NotHere(f"{path}: cannot read: {error.strerror or error}; the episode is left as it is") from error
    if "pointer" in (what := found_instead(path, "picture")):
        raise _NotHere(f"{path}: {what}; the episode is left as it is")
    picture = read_image(path)
    if size and picture.shape[:2] != size:
        raise DataError(f"{path}: found {picture.shape[:2]} (height, width), those before it have {size}")
    return picture


def _is_step(text: bytes) -> bool:
    try:
        line = parse_json(text)
    except DocumentError:
        return False
    return isinstance(line, dict) and "step" in line


def recover(config: RecoverConfig) -> int:
    """`gymnast data recover`: exit code 0 when every verb can read every episode below the folder now, 2 otherwise."""
    episodes = recordings_below(config.folder)
    if not episodes:
        raise DataError(f"{config.folder}: no episode folder (with an episode.json) below it")
    failures = 0
    for folder in episodes:
        try:
            print(recover_episode(folder))
        except DataError as error:
            failures += 1
            print(f"{folder}: {error}", file=sys.stderr)
        except Exception as error:  # whatever one episode holds, the others are recovered
            failures += 1
            print(f"{folder}: unexpected {type(error).__name__}: {error}", file=sys.stderr)
    return 2 if failures else 0

"""Where trials in imagination begin: WorldGym's trials, logged episodes, any frames with an instruction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.data.frames import resize_frame
from gymnast_core.data.trial_pictures import CRITERIA
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.protocols import Start
from gymnast_core.rollout.starts import check_instruction, find_starts, read_frames


@dataclass(frozen=True)
class Beginning:
    """A start with the file it is from. mark: tells it from others, see `mark_of`. criteria: when half a point is given
    (WorldGym's `partial_credit_criteria`); empty: never.
    """

    start: Start
    source: str
    mark: str
    criteria: str = ""


def mark_of(frame: np.ndarray, instruction: str) -> str:
    """16 hexadecimal digits of a start's frame (S, S, 3) and instruction, wherever it lies: a reset of a simulated
    station has the same for every policy."""
    digest = hashlib.sha256(instruction.encode())
    digest.update(str(frame.shape).encode())
    digest.update(np.ascontiguousarray(frame).tobytes())
    return digest.hexdigest()[:16]


def gather(
    folders: Sequence[str], frames: Sequence[str], instruction: str, side: int, limit: int = 0
) -> list[Beginning]:
    """All starts, squashed to (side, side) as a station squashes its camera's frames; equal ones count once.

    folders: of trials or episodes, by their own instructions. frames: single ones, which all get `instruction`. limit:
    of each instruction at most that many; 0: all.

    Raises: ConfigError where nothing is given, or an instruction is missing or left over; DataError for what cannot be
    read, and where nothing is usable.
    """
    if not folders and not frames:
        raise ConfigError("starts: found none; needed a folder of trials or episodes, or --frame with --instruction")
    if bool(frames) != bool(instruction.strip()):
        missing, given = ("instruction", "frame") if frames else ("frame", "instruction")
        raise ConfigError(f"{missing}: found none; needed one for --{given} (--starts have instructions of their own)")
    found: dict[str, Beginning] = {}
    for folder in folders:
        for source, start in find_starts(folder, side):
            criteria = source.describe().metadata.get(CRITERIA, "")
            _add(found, start, str(source.path), str(criteria))
    text = check_instruction(instruction) if frames else ""
    for name, (frame, position) in zip(frames, read_frames(frames) if frames else ()):
        _add(found, Start(text, resize_frame(frame, side), position=position), name)
    if not found:
        raise DataError(f"{', '.join(folders)}: no start frame; needed X.png with X.json, or episodes")
    chosen: list[Beginning] = []
    count: Counter[str] = Counter()
    for one in found.values():
        count[one.start.instruction] += 1
        if not limit or count[one.start.instruction] <= limit:
            chosen.append(one)
    criteria_of(chosen)
    return chosen


def criteria_of(beginnings: Sequence[Beginning]) -> dict[str, str]:
    """When half a point is given, by instruction. Raises: DataError where two starts of one instruction differ."""
    told: dict[str, Beginning] = {}
    for one in beginnings:
        if not one.criteria:
            continue
        first = told.setdefault(one.start.instruction, one)
        if first.criteria != one.criteria:
            raise DataError(
                f"{one.source}: {CRITERIA}: found {one.criteria[:60]!r}, but {first.criteria[:60]!r} in {first.source} "
                "with the same instruction; needed the same for each instruction"
            )
    return {name: one.criteria for name, one in told.items()}


def _add(found: dict[str, Beginning], start: Start, source: str, criteria: str = "") -> None:
    assert start.frame is not None
    mark = mark_of(start.frame, start.instruction)
    found.setdefault(mark, Beginning(start, source, mark, criteria))

"""Start frames of a practice on their way: captured by the evaluator, sent in a goal, written for the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnast_msgs.action import Adapt
from sensor_msgs.msg import Image

from gymnast_core.config import REACH
from gymnast_core.data.frames import write_image
from gymnast_core.errors import DataError
from gymnast_core.files import write_json
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.rl.adapt_result import FRAME
from gymnast_nodes.messages import image_to_frame

MOST_FRAMES = 64
REHEARSAL = "rehearsal"
Position = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """What the camera saw of the scene. position: end effector x, y, z (metres, base frame); None: not known."""

    image: Image
    position: Sequence[float] | None = None


@dataclass(frozen=True)
class StartViews:
    """Where a practice begins, at least one view; and views of other tasks by their instructions."""

    starts: tuple[View, ...]
    others: dict[str, tuple[View, ...]] = field(default_factory=dict)

    def fill(self, request: Adapt.Goal) -> None:
        """Put them into a goal."""
        first, *more = self.starts
        request.frame = first.image
        request.position = list(map(float, first.position or []))
        request.more_frames = [view.image for view in more]
        request.more_positions = _flat(more)
        rehearsed = [(words, view) for words, views in self.others.items() for view in views]
        request.rehearsal = [view.image for _, view in rehearsed]
        request.rehearsal_instructions = [words for words, _ in rehearsed]
        request.rehearsal_positions = _flat([view for _, view in rehearsed])


def _flat(views: Sequence[View]) -> list[float]:
    return [float(value) for view in views for value in (view.position or (math.nan,) * 3)]


@dataclass(frozen=True)
class WrittenStarts:
    """Files for the trainer: start frames, with where the arm was beside them; a folder of other tasks' ones, or ""."""

    frames: tuple[str, ...]
    rehearsal: str


def write_starts(run: Path, request: Adapt.Goal) -> WrittenStarts:
    """Write what a goal holds besides its first frame, which lies in the run folder already.

    Raises: DataError, naming the field, where it is wrong.
    """
    frames = [str(run / FRAME)]
    places = _positions(request.more_positions, len(request.more_frames), "more_positions")
    for number, (image, place) in enumerate(zip(_checked(request.more_frames, "more_frames"), places), start=1):
        path = run / f"start_{number}.png"
        write_image(path, image)
        if place is not None:
            write_json(path.with_suffix(".json"), {"position": list(place)})
        frames.append(str(path))
    names = list(request.rehearsal_instructions)
    others = _checked(request.rehearsal, "rehearsal")
    if len(names) != len(others):
        raise DataError(f"rehearsal_instructions: found {len(names)}, needed one for each of {len(others)} frames")
    places = _positions(request.rehearsal_positions, len(others), "rehearsal_positions")
    if others:
        (run / REHEARSAL).mkdir()
    for number, (image, words, place) in enumerate(zip(others, names, places)):
        normalise_instruction(words)
        path = run / REHEARSAL / f"{number:02d}.png"
        write_image(path, image)
        about: dict[str, Any] = {"instruction": words} | ({} if place is None else {"position": list(place)})
        write_json(path.with_suffix(".json"), about)
    return WrittenStarts(tuple(frames), str(run / REHEARSAL) if others else "")


def _checked(images: Sequence[Image], name: str) -> list[np.ndarray]:
    if len(images) > MOST_FRAMES:
        raise DataError(f"{name}: found {len(images)} frames, allowed are at most {MOST_FRAMES}")
    return [image_to_frame(image, f"{name}, frame {number}") for number, image in enumerate(images)]


def _positions(values: Sequence[float], count: int, name: str) -> list[Position | None]:
    """One position for each frame, None where it is not known. Raises: DataError."""
    if not len(values):
        return [None] * count
    if len(values) != 3 * count:
        raise DataError(f"{name}: found {len(values)} numbers, needed 3 for each of {count} frames, or none")
    found: list[Position | None] = []
    for number in range(count):
        x, y, z = (float(value) for value in values[3 * number : 3 * number + 3])
        known = math.isfinite(x + y + z)
        if known and max(abs(x), abs(y), abs(z)) > REACH:
            raise DataError(f"{name}: found {x:g} {y:g} {z:g}, needed metres, {-REACH:g} to {REACH:g}")
        found.append((x, y, z) if known else None)
    return found

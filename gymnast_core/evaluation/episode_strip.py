"""Film strips of stored episodes of any format, also of those whose frames cannot all be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import DataError
from gymnast_core.reporting.media import film_strip

SIDE = 112
MISSING = (96, 24, 24)
"""Colour of a frame that cannot be read."""


def chosen_frames(count: int, pictures: int, first: int | None = None, last: int | None = None) -> list[int]:
    """Numbers of at most `pictures` frames, evenly spaced: of `first` to `last` and one on either side, or of all."""
    low = 0 if first is None else max(0, min(first - 1, count - 1))
    high = count - 1 if first is None else max(low, min((first if last is None else last) + 1, count - 1))
    return np.unique(np.linspace(low, high, min(pictures, high - low + 1)).round().astype(int)).tolist()


def strip_of(source: StoredEpisode, numbers: Sequence[int], outcome: float | None = None) -> np.ndarray | None:
    """These frames side by side (SIDE + 5, width, 3) uint8; None where none of them can be read.

    outcome: colours the bar below, as in `film_strip`.
    """
    found = _readable(source, set(numbers))
    if not found:
        return None
    missing = np.full((SIDE, SIDE, 3), MISSING, dtype=np.uint8)
    frames = [found.get(number, missing) for number in numbers]
    return film_strip(np.stack(frames), len(frames), SIDE, outcome)


def _readable(source: StoredEpisode, numbers: set[int]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    try:
        if source.decoded_together:
            for number, frame in enumerate(source.frames()):
                if number in numbers:
                    found[number] = resize_frame(frame, SIDE)
                if number >= max(numbers):
                    break
            return found
    except DataError:
        return found
    for number in numbers:
        try:
            found[number] = source.frame(number, SIDE)
        except (DataError, IndexError):
            continue
    return found

"""A plain folder of pictures with an array of actions: what a script writes in a few lines, and other tools export.

    EPISODE/actions.npz        `actions` (T, 7) in Bridge convention; `executed` too where the arm did something else
    EPISODE/frames/NAME12.png  T + 1 pictures (PNG, JPEG, WebP, BMP, TIFF), in order of the number that ends their names
    EPISODE/description.json   {"instruction": ..., "success": true, false or null}, each where it is known

Frame k is what was seen before action k; the last one is what came of the last action. Numbers start at 0 or 1 and have
no gap: with a picture missing, every later action would stand beside the wrong frame.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from gymnast_core.data.arrays import read_array
from gymnast_core.data.dataset_writer import EpisodeFiles, to_be_copied
from gymnast_core.data.episode import ACTION_DIM, HEADER_FILE, STATE_DIM, Episode
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.frames import read_image, resize_frame, write_image
from gymnast_core.data.pictures import check_image
from gymnast_core.data.sidecar import read_sidecar
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import DataError, LengthError
from gymnast_core.files import hidden, write_bytes, write_json

ACTIONS_FILE, FRAMES_FOLDER, DESCRIPTION_FILE = "actions.npz", "frames", "description.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
PERIOD_NS = 200_000_000
"""Between two frames where nothing says more: a Bridge arm is commanded at 5 Hz."""


@dataclass(frozen=True)
class PictureEpisode(StoredEpisode):
    """A folder of pictures with actions.npz."""

    def files(self) -> Sequence[Path]:
        return (self.path / ACTIONS_FILE, self.path / FRAMES_FOLDER)

    def describe(self) -> Description:
        text, success = read_sidecar(self.path / DESCRIPTION_FILE)
        return Description(text, success, {"source": "robot", "file": self.path.name})

    def steps(self) -> Episode:
        about, count = self.describe(), self.count()
        actions, executed = self._array("actions"), self._array("executed", "actions")
        if not len(actions) == len(executed) == count - 1:
            raise LengthError(
                f"{self.path / ACTIONS_FILE}: found {len(actions)} actions and {len(executed)} executed for {count} "
                "frames; needed one frame more than actions"
            )
        return Episode(
            instruction=about.instruction,
            frames=np.empty((0, 0, 0, 3), dtype=np.uint8),
            actions=actions,
            executed=executed,
            states=np.full((count, STATE_DIM), np.nan, dtype=np.float32),
            stamps=np.arange(count, dtype=np.int64) * PERIOD_NS,
            success=about.success,
            metadata=about.metadata,
        )

    def count(self) -> int:
        return len(self._pictures)

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        return (self.frame(number, size) for number in range(self.count()))

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        frame = read_image(self._pictures[number])
        return resize_frame(frame, size) if size else frame

    def check_frames(self, count: int) -> None:
        super().check_frames(count)
        for picture in self._pictures[:count]:
            check_image(picture)

    def _array(self, *names: str) -> np.ndarray:
        path = self.path / ACTIONS_FILE
        array = read_array(path, names)
        if array.ndim != 2 or array.shape[1] != ACTION_DIM:
            raise DataError(f"{path}: {names[0]}: found shape {array.shape}, needed (steps, {ACTION_DIM})")
        return check_bridge(array, f"{path}: {names[0]}")

    @cached_property
    def _pictures(self) -> list[Path]:
        """In order of their numbers."""
        folder = self.path / FRAMES_FOLDER
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot read: {error.strerror or error}") from error
        found: dict[int, Path] = {}
        for path in (folder / name for name in names if not hidden(name) and name.lower().endswith(SUFFIXES)):
            digits = re.search(r"[0-9]+$", path.stem)
            if digits is None:
                raise DataError(f"{path}: found no number at the end of its name, by which frames are put in order")
            if (other := found.setdefault(int(digits[0]), path)) != path:
                raise DataError(f"{path}: has the number of {other.name}; needed one picture for each number")
        numbers = sorted(found)
        first = numbers[0] if numbers else 0
        if not numbers or first > 1:
            raise DataError(f"{folder}: found {f'a first picture {first}' if numbers else 'no picture'}; needed 0 or 1")
        if gap := next((n for n in range(first, first + len(numbers)) if n not in found), None):
            raise DataError(f"{folder}: found no picture {gap}, but later ones; needed numbers without a gap")
        return [found[number] for number in numbers]


def write_pictures(folder: Path, episode: Episode) -> Path:
    """Write a folder of pictures; states, stamps and metadata have no place in it.

    Raises: DataError where a step was never executed, or something cannot be written.
    """
    if episode.answered < episode.length:
        raise DataError(f"{folder}: step {episode.answered} was never executed, which this format cannot say")
    try:
        (folder / FRAMES_FOLDER).mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot write: {error.strerror or error}") from error
    for number, frame in enumerate(episode.frames):
        write_image(folder / FRAMES_FOLDER / f"{number:06d}.png", frame)
    about = {"instruction": episode.instruction, "success": episode.success}
    write_json(folder / DESCRIPTION_FILE, about, indent=None)
    arrays = io.BytesIO()
    np.savez(arrays, actions=episode.actions, executed=episode.executed)
    write_bytes(folder / ACTIONS_FILE, arrays.getvalue())  # last: it makes the folder an episode
    return folder


def copy_pictures(folder: Path, source: StoredEpisode) -> Path:
    """Write an episode of any format as a folder of pictures; it is in memory meanwhile. Raises: DataError."""
    episode, _ = to_be_copied(source)
    return write_pictures(folder, replace(episode, frames=source.read().frames))


def _find(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    there = ACTIONS_FILE in names and HEADER_FILE not in names and (folder / FRAMES_FOLDER).is_dir()
    return (folder,) if there else ()


FORMAT = Format(
    "pictures",
    "a folder with actions.npz and a picture for each frame in frames/",
    _find,
    PictureEpisode,
    write_pictures,
    open_writer=partial(EpisodeFiles, write_one=copy_pictures),
)

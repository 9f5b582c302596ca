"""The format of our own logs, read: a folder with episode.json, steps.jsonl and a picture for each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.dataset_writer import EpisodeFiles, to_be_copied
from gymnast_core.data.episode import (
    FRAMES_FOLDER,
    HEADER_FILE,
    STEPS_FILE,
    Episode,
    iterate_frames,
    read_episode,
    read_header,
    read_step_lines,
    write_episode,
)
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.frames import read_image, resize_frame
from gymnast_core.data.pictures import check_image
from gymnast_core.errors import DataError, DocumentError, TwiceError
from gymnast_core.plain_json import parse_json

OWN = ("step", "action", "executed")
"""What a line of steps.jsonl holds besides the facts of the step."""


@dataclass(frozen=True)
class GymnastEpisode(StoredEpisode):
    """An episode folder, whole or cut short; see `gymnast_core.data.episode`."""

    def files(self) -> Sequence[Path]:
        return (self.path / STEPS_FILE,)

    def describe(self) -> Description:
        header = read_header(self.path)
        return Description(header["instruction"], header.get("success"), header["metadata"])

    def steps(self) -> Episode:
        return read_episode(self.path, frames=False)

    @cached_property
    def _count(self) -> int:
        return len(self.steps().stamps)

    def count(self) -> int:
        return self._count

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        for frame in iterate_frames(self.path, self.count()):
            yield resize_frame(frame, size) if size else frame

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        frame = read_image(self._file(number))
        return resize_frame(frame, size) if size else frame

    def position(self, number: int) -> list[float] | None:
        return self.steps().position(number)

    def facts(self) -> Sequence[Mapping[str, Any]]:
        path = self.path / STEPS_FILE
        found: list[dict[str, Any]] = []
        for _, text in read_step_lines(path):
            try:
                line = parse_json(text)
            except TwiceError as error:
                raise DataError(f"{path}: {error}") from error
            except DocumentError:  # the crash came in the middle of this line
                break
            if isinstance(line, dict) and "step" in line:
                found.append({name: value for name, value in line.items() if name not in OWN})
            elif isinstance(line, dict) and found and "success" in line:  # seen in the frame after the step
                found[-1].setdefault("success", line["success"])
        return found

    def check_frames(self, count: int) -> None:
        for number in range(count):
            check_image(self._file(number))

    def _file(self, number: int) -> Path:
        return self.path / FRAMES_FOLDER / f"{number:06d}.png"


def copy_episode(folder: Path, source: StoredEpisode) -> Path:
    """Write an episode of any format as one of ours, frame by frame. Raises: DataError."""
    episode, facts = to_be_copied(source)
    return write_episode(folder, episode, facts, source.frames())


FORMAT = Format(
    "gymnast",
    "a folder with episode.json",
    lambda folder, names: (folder,) if HEADER_FILE in names else (),
    GymnastEpisode,
    write_episode,
    open_writer=partial(EpisodeFiles, write_one=copy_episode),
)

"""WorldGym's trials, read: a picture and what the robot is to do from there. Each is an episode of one frame.

    X.png    the frame in which a trial begins (.jpg and .jpeg, too)
    X.json   {"instruction": "...", "partial_credit_criteria": "...", "position": [x, y, z]}, all but the first optional

`partial_credit_criteria` says when a vision-language model gives half a point. `position` is the end effector's, in
metres along the axes of the base. Other entries are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from gymnast_core.config import REACH
from gymnast_core.data.episode import ACTION_DIM, STATE_DIM, Episode
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.frames import read_image, resize_frame
from gymnast_core.data.pictures import check_image
from gymnast_core.data.sidecar import read_description
from gymnast_core.errors import DataError
from gymnast_core.files import is_number

SUFFIXES = (".png", ".jpg", ".jpeg")
CRITERIA = "partial_credit_criteria"
"""Also in the metadata of such an episode."""


@dataclass(frozen=True)
class TrialPicture(StoredEpisode):
    """A start frame: one frame, and no step."""

    @property
    def _said(self) -> Path:
        return self.path.with_suffix(".json")

    def files(self) -> Sequence[Path]:
        return (self.path, self._said)

    def describe(self) -> Description:
        content = read_description(self._said)
        metadata = {"source": "trial", "file": self.path.name}
        if criteria := _text_in(content, CRITERIA, self._said):
            metadata[CRITERIA] = criteria
        return Description(_text_in(content, "instruction", self._said), None, metadata)

    def steps(self) -> Episode:
        about, place = self.describe(), self.position(0)
        states = np.full((1, STATE_DIM), np.nan, dtype=np.float32)
        if place is not None:
            states[0, :3] = place
        nothing = np.empty((0, ACTION_DIM), dtype=np.float32)
        return Episode(
            instruction=about.instruction,
            frames=np.empty((0, 0, 0, 3), dtype=np.uint8),
            actions=nothing,
            executed=nothing,
            states=states,
            stamps=np.zeros(1, dtype=np.int64),
            success=None,
            metadata=about.metadata,
        )

    def count(self) -> int:
        return 1

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        return iter((self.frame(0, size),))

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        frame = read_image(self.path)
        return resize_frame(frame, size) if size else frame

    def check_frames(self, count: int) -> None:
        super().check_frames(count)
        check_image(self.path)

    def position(self, number: int) -> list[float] | None:
        return position_in(read_description(self._said), self._said)


def position_in(content: Mapping[str, Any], source: Path) -> list[float] | None:
    """The end effector's position in a start frame's description, metres; None where it says nothing."""
    value = content.get("position")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or not all(is_number(one) and abs(one) <= REACH for one in value):
        raise DataError(f"{source}: position: found {value!r:.60}, needed x, y, z in metres, {-REACH:g} to {REACH:g}")
    return [float(one) for one in value]


def _text_in(content: Mapping[str, Any], name: str, source: Path) -> str:
    value = content.get(name, "")
    if not isinstance(value, str):
        raise DataError(f"{source}: {name}: found {type(value).__name__}, needed text")
    return value


def _find(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    there = set(names)
    for name in names:
        path = PurePath(name)
        film = path.with_suffix(".npz").name in there  # its thumbnail
        if path.suffix.lower() in SUFFIXES and path.with_suffix(".json").name in there and not film:
            yield folder / name


FORMAT = Format("trials", "X.png with X.json beside it", _find, TrialPicture, starts_only=True)

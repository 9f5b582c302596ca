"""WorldGym's layout, read: a film and the array of vectors beside it; see `gymnast_core.data.worldgym`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from gymnast_core.data.episode import Episode
from gymnast_core.data.films import FilmIndex, film_frame, film_frames, film_index
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.sidecar import read_sidecar
from gymnast_core.data.worldgym import read_vectors, unscale_actions
from gymnast_core.data.worldgym_writer import WorldGymWriter

PERIOD_NS = 200_000_000
"""Between two frames: Bridge's data were recorded at 5 Hz, and nothing in the layout says more."""


@dataclass(frozen=True)
class WorldGymEpisode(StoredEpisode):
    """`N.mp4` with `N.npz`; instruction and outcome in `N.json` where there is one."""

    decoded_together: ClassVar[bool] = True

    @property
    def _array(self) -> Path:
        return self.path.with_suffix(".npz")

    def files(self) -> Sequence[Path]:
        return (self.path, self._array)

    def describe(self) -> Description:
        text, success = read_sidecar(self.path.with_suffix(".json"))
        return Description(text, success, {"source": "robot", "file": self.path.name})

    def steps(self) -> Episode:
        about = self.describe()
        vectors = read_vectors(self.path)
        actions = unscale_actions(vectors[1:], str(self._array))
        return Episode(
            instruction=about.instruction,
            frames=np.empty((0, 0, 0, 3), dtype=np.uint8),
            actions=actions,
            executed=actions,
            states=np.full((len(vectors), 7), np.nan, dtype=np.float32),
            stamps=np.arange(len(vectors), dtype=np.int64) * PERIOD_NS,
            success=about.success,
            metadata=about.metadata,
        )

    @cached_property
    def _index(self) -> FilmIndex:
        return film_index(self.path)

    def count(self) -> int:
        return self._index.count

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        return film_frames(self.path, size)

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        return film_frame(self.path, number, size, self._index)

    def vectors(self) -> np.ndarray:
        return read_vectors(self.path)

    @property
    def held_out(self) -> bool:
        """The layout says so itself: <subset>/test/N.mp4."""
        return self.path.parent.name == "test"


def _find(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    there = set(names)
    films = (folder / name for name in names if name.lower().endswith(".mp4"))
    return (film for film in films if film.with_suffix(".npz").name in there)


FORMAT = Format("worldgym", "N.mp4 with N.npz beside it", _find, WorldGymEpisode, open_writer=WorldGymWriter)

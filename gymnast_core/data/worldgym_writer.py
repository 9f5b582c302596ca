"""WorldGym's layout, written: `N.mp4`, `N.npz` and `N.json`; held-out episodes in a folder called `test`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gymnast_core.data.dataset_writer import DatasetWriter, check_length, to_be_copied, written_whole
from gymnast_core.data.film_writer import write_film
from gymnast_core.data.worldgym import WORLDGYM_ACTION_DIM, check_scalable, scale_actions
from gymnast_core.errors import DataError
from gymnast_core.files import write_bytes, write_json

if TYPE_CHECKING:
    from gymnast_core.data.formats import StoredEpisode

CRF = 12
"""Quality of a film that a world model is trained on."""
FPS = 5.0
"""The layout holds no times; Bridge's rate stands in the film's header."""


@dataclass(frozen=True)
class WorldGymWriter(DatasetWriter):
    """Rows of a WorldGym episode stay as they are, of whatever robot. Otherwise they are what the arm executed."""

    def has(self, number: int, name: str) -> bool:
        return any(path.exists() for path in (self._film(name, False), self._film(name, True)))

    def add(self, number: int, name: str, source: StoredEpisode) -> None:
        film = self._film(name, source.held_out)
        about, rows, told = source.describe(), source.vectors(), source.outcome().success
        if rows is None:
            rows = self._rows(source)
        description = {"instruction": about.instruction, "success": told}
        if len(rows) and 0 <= rows[:, 6].min() < 1:
            description["gripper"] = "relative"  # as the episode's own layout says, or it could not have been read
        with written_whole(film, self.pieces / f"{number:06d}.mp4") as temporary:
            count = write_film(temporary, source.frames(), self.settings.fps or FPS, CRF)
            if count != len(rows):
                raise DataError(f"{source.path}: found {count} frames, needed {len(rows)}, one more than actions")
            arrays = io.BytesIO()
            np.savez(arrays, arr_0=rows)
            write_bytes(film.with_suffix(".npz"), arrays.getvalue())
            write_json(film.with_suffix(".json"), description, indent=None)

    def _rows(self, source: StoredEpisode) -> np.ndarray:
        """(T + 1, 10) of what the arm executed; the first leads to no frame. Raises: DataError."""
        episode, _ = to_be_copied(source)
        if episode.answered < episode.length:
            raise DataError(f"{source.path}: step {episode.answered} was never executed, which this format cannot say")
        check_length(source, episode, source.count())
        if not self.settings.clip:
            check_scalable(episode.executed, f"{source.path}: executed")
        scaled = scale_actions(episode.executed)
        first = np.zeros((1, WORLDGYM_ACTION_DIM), dtype=np.float32)
        first[0, 6] = scaled[0, 6] if len(scaled) else -1.0  # 0 would say that the gripper's column is relative
        return np.concatenate((first, scaled))

    def _film(self, name: str, held_out: bool) -> Path:
        parts = Path(name).parts
        apart = ("test",) if held_out and parts[-2:-1] != ("test",) else ()
        place = self.whole.joinpath(*parts[:-1], *apart, parts[-1])
        return place.with_name(place.name + ".mp4")

"""LeRobot data sets (v3.0), written: a piece for each episode first, which `finish` joins into few files.

LeRobot keeps an action beside each frame. The last frame of an episode has none, so its row repeats the gripper's last
command and moves nothing; whoever reads it as an episode of gymnast leaves that action out. What lerobot has no place
for stands in columns that begin with "gymnast.": no policy of lerobot takes them for inputs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.dataset_writer import DatasetWriter, check_length, common_rate, to_be_copied, written_whole
from gymnast_core.data.episode import Episode
from gymnast_core.data.film_writer import write_film
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.frames import check_frame, encode_image
from gymnast_core.data.lerobot_dataset import ACTION, AXES, EXECUTED, FACTS, MEASURED, STAMP, STATE, TRUTH, need_arrow
from gymnast_core.data.lerobot_join import CAMERA, join_pieces
from gymnast_core.data.lerobot_stats import PictureStats, of_numbers
from gymnast_core.errors import DataError
from gymnast_core.files import read_json, write_json
from gymnast_core.progress import check_stop

PLAN, ROWS, FILM, ABOUT = "plan.json", "rows.parquet", "film.mp4", "about.json"
CRF, JUMP = 18, 2
"""Quality, and how often decoding can begin: lerobot reads frames at random places, and writes every second one so."""


@dataclass(frozen=True)
class LeRobotWriter(DatasetWriter):
    """See the module."""

    def prepare(self, sources: Iterable[StoredEpisode]) -> None:
        need_arrow()
        plan: dict[str, Any] = {"measured": True, "some_measured": False, "truths": True, "shape": None}
        rates: list[tuple[StoredEpisode, np.ndarray]] = []
        for source in sources:
            check_stop()
            episode, facts = to_be_copied(source)
            shape = list(check_frame(source.frame(0), str(source.path)).shape)
            if plan["shape"] not in (None, shape):
                found = f"{shape[:2]} and others of {plan['shape'][:2]} (height, width)"
                raise DataError(f"{source.path}: found frames of {found}, needed one size in a data set")
            known = np.isfinite(episode.states)
            plan["shape"] = shape
            plan["measured"] &= bool(known.all())
            plan["some_measured"] |= bool(known.any())
            plan["truths"] &= bool(facts) and all("success" in fact for fact in facts)
            rates.append((source, episode.stamps))
        plan["fps"] = self.settings.fps or common_rate(rates)
        write_json(self.folder / PLAN, plan)

    def has(self, number: int, name: str) -> bool:
        return self._piece(number).is_dir()

    def add(self, number: int, name: str, source: StoredEpisode) -> None:
        import pyarrow.parquet as pq

        plan = read_json(self.folder / PLAN)
        episode, facts = to_be_copied(source)
        columns = _columns(plan, number, episode, facts)
        stats = {key: of_numbers(value) for key, value in columns.items() if _is_counted(key, value)}
        with written_whole(self._piece(number), self.pieces / f".{number:06d}") as piece:
            piece.mkdir()
            pictures = PictureStats(episode.length + 1)
            seen = _seen(source, pictures, plan["shape"])
            encoded: list[bytes] | None = None
            if self.settings.frames == "video":
                count = write_film(piece / FILM, seen, plan["fps"], CRF, JUMP)
            else:
                encoded = [encode_image(frame) for frame in seen]
                count = len(encoded)
            check_length(source, episode, count)
            pq.write_table(_table(columns, encoded), piece / ROWS)
            stats[CAMERA] = pictures.result()
            about = {
                "length": count,
                "instruction": episode.instruction,
                "success": episode.success,
                "complete": episode.complete,
                "metadata": json.dumps(dict(episode.metadata)),
                "held_out": source.held_out,
                "stats": stats,
            }
            write_json(piece / ABOUT, about, indent=None)

    def finish(self, count: int) -> None:
        shutil.rmtree(self.whole, ignore_errors=True)  # of a run that was killed
        pieces = [self._piece(number) for number in range(count)]
        join_pieces(pieces, self.whole, read_json(self.folder / PLAN), self.settings)

    def _piece(self, number: int) -> Path:
        return self.pieces / f"{number:06d}"


def _seen(source: StoredEpisode, stats: PictureStats, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames, which are counted into `stats` as they pass. Raises: DataError for another size."""
    for number, frame in enumerate(source.frames()):
        if list(frame.shape) != list(shape):
            found = f"frame {number} of {frame.shape[:2]} and others of {tuple(shape[:2])} (height, width)"
            raise DataError(f"{source.path}: found {found}, needed one size in a data set")
        stats.add(frame)
        yield frame


def _columns(plan: dict[str, Any], number: int, episode: Episode, facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every column but the pictures, of T + 1 rows; `index` and `task_index` are those of the whole data set later."""
    frames = episode.length + 1
    still = np.zeros((1, len(AXES)), dtype=np.float32)
    still[0, 6] = episode.actions[-1, 6] if episode.length else 1.0
    columns: dict[str, Any] = {ACTION: np.concatenate((episode.actions, still))}
    if plan["measured"]:
        columns[STATE] = episode.states
    elif plan["some_measured"]:
        columns[MEASURED] = episode.states
    if plan["truths"]:
        done = [bool(fact["success"]) for fact in facts]
        columns[TRUTH] = np.array([*done, done[-1]])
    columns[EXECUTED] = np.concatenate((episode.executed, np.full_like(still, np.nan)))
    columns[STAMP] = episode.stamps
    columns[FACTS] = [json.dumps(facts[step]) if step < len(facts) else "{}" for step in range(frames)]
    columns["timestamp"] = (np.arange(frames) / plan["fps"]).astype(np.float32)
    columns["frame_index"] = np.arange(frames)
    columns["episode_index"] = np.full(frames, number)
    columns["index"] = np.arange(frames)
    columns["task_index"] = np.zeros(frames, dtype=np.int64)
    return columns


def _is_counted(column: str, values: Any) -> bool:
    """Whether statistics of a column are of use: those of gymnast's own hold text, and NaN where nothing is known."""
    return isinstance(values, np.ndarray) and column not in (EXECUTED, MEASURED, STAMP)


def _table(columns: dict[str, Any], pictures: list[bytes] | None) -> Any:
    import pyarrow as pa

    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values.astype(np.float32).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[name] = pa.array(values)
    if pictures is not None:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = [{"bytes": content, "path": f"frame-{number:06d}.png"} for number, content in enumerate(pictures)]
        arrays[CAMERA] = pa.array(cells, kind)
    return pa.table(arrays)

"""Episodes of LeRobot data sets (v2.0, v2.1, v3.0), read; docs/how-to/lerobot.md says what becomes of which column.

A row holds what was seen and the action that was taken then. So an episode of N rows is one of N frames and N - 1
steps: what came of the last row's action was not recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gymnast_core.data.episode import ACTION_DIM, STATE_DIM, Episode, check_actions
from gymnast_core.data.films import film_section
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.lerobot_dataset import (
    ACTION,
    AXES,
    EXECUTED,
    FACTS,
    HINTS_FILE,
    MEASURED,
    NAME,
    STAMP,
    STATE,
    TRUTH,
    Entry,
    LeRobotDataset,
    is_dataset,
    numbers,
    open_dataset,
    read_table,
)
from gymnast_core.data.lerobot_writer import LeRobotWriter
from gymnast_core.data.pictures import decode_image
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import DataError
from gymnast_core.plain_json import parse_json
from gymnast_core.progress import check_stop

AT_ONCE = 16
"""Pictures of a table that are in memory together, undecoded."""


@dataclass(frozen=True)
class LeRobotEpisode(StoredEpisode):
    """`DATASET/episode_000012`: a name, which nothing on disk has.

    asked: the camera, by the name of its column or the last part of it; empty: the only one, or that of dataset.json.
    """

    asked: str = ""
    decoded_together: ClassVar[bool] = True

    @property
    def _dataset(self) -> LeRobotDataset:
        return open_dataset(self.path.parent)

    @property
    def _entry(self) -> Entry:
        entries, number = self._dataset.entries(), int(self.path.name.rpartition("_")[2])
        if number >= len(entries):
            raise DataError(f"{self.path.parent}: found {len(entries)} episodes, there is no {self.path.name}")
        return entries[number]

    def seen_by(self, camera: str) -> StoredEpisode:
        self._dataset.camera(camera)
        return replace(self, asked=camera)

    def files(self) -> Sequence[Path]:
        entry = self._entry
        return (self._dataset.info, entry.rows, *(film for film, _ in entry.films.values()))

    def describe(self) -> Description:
        entry, dataset = self._entry, self._dataset
        if len(entry.tasks) > 1:
            raise DataError(f"{self.path}: found {len(entry.tasks)} tasks in one episode, needed one instruction")
        told = {"source": "robot", "file": f"{self.path.parent.name}/{self.path.name}"}
        if dataset.robot:
            told["robot"] = dataset.robot
        if entry.metadata is not None:  # gymnast wrote it
            return Description("".join(entry.tasks), entry.success, entry.metadata)
        return Description("".join(entry.tasks), self._success(), told)

    def steps(self) -> Episode:
        about, dataset, entry = self.describe(), self._dataset, self._entry
        self._check_columns()
        known = dataset.features
        wanted = [name for name in (STATE, EXECUTED, MEASURED, STAMP) if name in known]
        table = self._rows([ACTION, "timestamp", "frame_index"], wanted)
        actions = numbers(table, ACTION, ACTION_DIM, entry.rows)[:-1]
        actions = check_bridge(check_actions(actions, f"{self.path}: {ACTION}"), f"{self.path}: {ACTION}")
        executed = actions
        if EXECUTED in table.column_names:
            executed = numbers(table, EXECUTED, ACTION_DIM, entry.rows)[:-1]
        if STAMP in table.column_names and not table[STAMP].null_count:
            stamps = table[STAMP].to_numpy()
        else:
            stamps = np.rint(self._times(table) * 1e9)
        return Episode(
            instruction=about.instruction,
            frames=np.empty((0, 0, 0, 3), dtype=np.uint8),
            actions=actions,
            executed=executed,
            states=self._states(table),
            stamps=stamps.astype(np.int64),
            success=about.success,
            complete=entry.complete,
            metadata=about.metadata,
        )

    def facts(self) -> Sequence[Mapping[str, Any]]:
        known = self._dataset.features
        wanted = [name for name in (FACTS, TRUTH) if name in known]
        if not wanted:
            return ()
        found, rows = [], self._rows(["frame_index"], wanted).to_pylist()
        for number, row in enumerate(rows[:-1]):
            try:
                facts = parse_json(row.get(FACTS) or "{}")
            except ValueError as error:
                raise DataError(f"{self._entry.rows}: {FACTS}: row {number}: not JSON ({error})") from error
            if not isinstance(facts, dict):
                raise DataError(f"{self._entry.rows}: {FACTS}: row {number}: needed a mapping of facts")
            truth = {} if row.get(TRUTH) is None else {"success": self._truth(row[TRUTH])}
            found.append({**truth, **facts})
        return found

    def position(self, number: int) -> list[float] | None:
        return self.steps().position(number)

    def count(self) -> int:
        return self._entry.length

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        camera = self._dataset.camera(self.asked)
        if camera in self._entry.films:
            film, start = self._entry.films[camera]
            times = self._times(self._rows(["timestamp", "frame_index"]))
            return film_section(film, (start + times).tolist(), self._near, size)
        return self._pictures(camera, size)

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        camera = self._dataset.camera(self.asked)
        if camera in self._entry.films:
            film, start = self._entry.films[camera]
            time = float(self._times(self._rows(["timestamp", "frame_index"]))[number])
            return next(film_section(film, [start + time], self._near, size))
        return next(self._pictures(camera, size, number))

    @property
    def held_out(self) -> bool:
        """`splits` of info.json say so."""
        return self._dataset.held_out(self._entry.number)

    @property
    def _near(self) -> float:
        return 0.5 / self._dataset.fps

    def _success(self) -> bool | None:
        """What the last row says: often it alone, whose action is left out, tells of the success."""
        if TRUTH not in self._dataset.features:
            return None
        truth = self._rows(["frame_index", TRUTH])[TRUTH].to_pylist()[-1]
        return None if truth is None else self._truth(truth)

    def _truth(self, value: Any) -> bool:
        if value not in (0, 1):
            raise DataError(f"{self._entry.rows}: {TRUTH}: found {str(value)[:40]}, needed truth values")
        return bool(value)

    def _rows(self, needed: Sequence[str], wanted: Sequence[str] = ()) -> Any:
        """Its rows, in order. Raises: DataError where one is missing."""
        entry = self._entry
        table = read_table(entry.rows, needed, wanted, [("episode_index", "=", entry.number)])
        order = table["frame_index"].to_pylist()
        if order != list(range(entry.length)):
            found = f"found {len(order)} rows of episode {entry.number}"
            raise DataError(f"{entry.rows}: {found}, needed {entry.length}, numbered in order")
        return table

    def _times(self, table: Any) -> np.ndarray:
        """(N,) float64 seconds since the episode's first frame: whole periods, which float32 only comes close to."""
        times = numbers(table, "timestamp", 1, self._entry.rows)[:, 0].astype(np.float64)
        fps = self._dataset.fps
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise DataError(
                f"{self._entry.rows}: timestamp: needed times that increase within episode {self._entry.number}"
            )
        whole = np.rint(times * fps) / fps
        return np.where(np.abs(whole - times) < 0.02 / fps, whole, times)

    def _states(self, table: Any) -> np.ndarray:
        """(N, 7) float32 measured poses, NaN where the data set holds none."""
        rows, count = self._entry.rows, table.num_rows
        if MEASURED in table.column_names:
            return numbers(table, MEASURED, STATE_DIM, rows)
        names = [_plain(name) for name in self._dataset.names(STATE)]
        if STATE not in table.column_names or not set(AXES) <= set(names):
            return np.full((count, STATE_DIM), np.nan, dtype=np.float32)
        return numbers(table, STATE, len(names), rows)[:, [names.index(axis) for axis in AXES]]

    def _check_columns(self) -> None:
        """Raises: DataError naming the column, where actions are not Bridge's by their names."""
        dataset = self._dataset
        if ACTION not in dataset.features:
            raise DataError(f"{dataset.info}: features: found no '{ACTION}'")
        needed = f"as Bridge actions needed {', '.join(AXES)}"
        names = dataset.names(ACTION)
        if not names:
            if dataset.hints.get(ACTION) == "bridge":
                return
            told = f'{needed}; if they are, write {{"{ACTION}": "bridge"}} into {dataset.folder / HINTS_FILE}'
            raise DataError(f"{dataset.info}: {ACTION}: its columns have no names; {told}")
        for place, name in enumerate(names):
            if place >= len(AXES) or _plain(name) != AXES[place]:
                raise DataError(f"{dataset.info}: {ACTION}: column {place} is '{name[:60]}'; {needed}")
        if len(names) < len(AXES):
            raise DataError(f"{dataset.info}: {ACTION}: found {len(names)} columns; {needed}")

    def _pictures(self, camera: str, size: int | None, number: int | None = None) -> Iterator[np.ndarray]:
        """Frames of a table with the pictures in it; of frame `number` alone where given."""
        import pyarrow as pa
        import pyarrow.dataset as tables

        entry, seen = self._entry, 0
        wanted = tables.field("episode_index") == entry.number
        if number is not None:
            wanted &= tables.field("frame_index") == number
        try:
            scanner = tables.dataset(entry.rows, format="parquet").scanner(
                columns=[camera], filter=wanted, batch_size=AT_ONCE, batch_readahead=1, fragment_readahead=1,
                use_threads=False,
            )  # fmt: skip
            for batch in scanner.to_batches():
                for cell in batch.column(0):
                    check_stop()
                    name = f"{entry.rows}: {camera}: frame {seen if number is None else number} of {self.path.name}"
                    content = cell.as_py()
                    content = content.get("bytes") if isinstance(content, dict) else content
                    if not isinstance(content, bytes):
                        raise DataError(f"{name}: its picture is not in the table, only a path; needed its bytes")
                    frame = decode_image(content, name)
                    yield resize_frame(frame, size) if size else frame
                    seen += 1
        except (OSError, pa.ArrowException, ValueError) as error:
            raise DataError(f"{entry.rows}: cannot read the table ({' '.join(str(error).split())[:160]})") from error
        if seen != (entry.length if number is None else 1):
            raise DataError(f"{entry.rows}: found {seen} pictures of {self.path.name}, needed {entry.length}")


def _plain(name: str) -> str:
    """A column's name as people write it: "Delta_X" is "x"."""
    return re.sub(r"^delta[_ ]", "", name.strip().lower())


def _find(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    if not is_dataset(folder):
        return ()
    return (folder / NAME.format(number) for number in range(open_dataset(folder).count))


FORMAT = Format(
    "lerobot",
    "a LeRobot data set (v2.0 to v3.0) with meta/info.json",
    _find,
    LeRobotEpisode,
    open_writer=LeRobotWriter,
)

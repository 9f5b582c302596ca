"""A LeRobot data set, v2.0 to v3.0, as its `meta` folder describes it: which files hold which episode.

    meta/info.json             version, frames per second, columns ("features"), patterns of file names, splits
    meta/episodes/*/*.parquet  v3: a row for each episode: length, tasks, files, place within a film
    meta/episodes.jsonl        v2: a line for each episode: length, tasks
    meta/tasks.parquet|jsonl   the text of each task_index

Source: lerobot 0.4.4, `lerobot/datasets/utils.py`. Everything in it is outside input.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.sidecar import read_description
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import read_json, read_json_lines
from gymnast_core.plain_json import parse_json

INFO_FILE = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
NAME = "episode_{:06d}"
MOST_EPISODES = 10_000_000
HELD_OUT = ("test", "val", "validation", "eval")
"""Splits that are kept out of training."""
AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""The names of Bridge's columns, of actions and of measured poses."""
ACTION, STATE, TRUTH = "action", "observation.state", "next.success"
OWN = "gymnast."
"""Begins the names of columns that `gymnast data convert` adds, and that lerobot passes over."""
EXECUTED, MEASURED, STAMP, FACTS = f"{OWN}executed", f"{OWN}state", f"{OWN}stamp_ns", f"{OWN}facts"
HINTS_FILE = "dataset.json"
"""Beside `meta`: what a person says of a data set that its own files do not."""


@dataclass(frozen=True)
class Entry:
    """One episode of a data set.

    rows: the table that holds its rows. films: by camera, the film and where in it the episode begins (seconds).
    success, complete, metadata: what gymnast wrote of it.
    """

    number: int
    length: int
    tasks: tuple[str, ...]
    rows: Path
    films: Mapping[str, tuple[Path, float]]
    success: bool | None = None
    complete: bool = True
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LeRobotDataset:
    """What `meta/info.json` says. features: of each column, its dtype, shape and names."""

    folder: Path
    version: str
    fps: float
    count: int
    features: Mapping[str, Mapping[str, Any]]
    patterns: Mapping[str, str]
    chunk: int
    splits: Mapping[str, tuple[int, int]]
    robot: str
    hints: Mapping[str, Any]

    @property
    def info(self) -> Path:
        return self.folder / INFO_FILE

    @property
    def cameras(self) -> list[str]:
        """The columns with pictures, depth left out."""
        found = []
        for name, feature in self.features.items():
            about = feature.get("info") or feature.get("video_info") or {}
            depth = isinstance(about, dict) and about.get("video.is_depth_map") is True
            if feature.get("dtype") in ("video", "image") and not depth:
                found.append(name)
        return found

    def camera(self, asked: str = "") -> str:
        """The one camera there is, or the one that was asked for, by the name of its column or the last part of it.

        Raises: DataError listing the cameras.
        """
        asked = asked or str(self.hints.get("camera") or "")
        found = [name for name in self.cameras if not asked or asked in (name, name.rpartition(".")[2])]
        if len(found) == 1:
            return found[0]
        there = ", ".join(self.cameras) or "none"
        if asked:
            raise DataError(f"{self.info}: camera: found no '{asked}'; there are {there}")
        told = f'choose one: `--camera` of `gymnast data convert`, or {{"camera": "..."}} in {self.folder / HINTS_FILE}'
        raise DataError(
            f"{self.info}: found the cameras {there}, needed one; {told if self.cameras else ''}".rstrip("; ")
        )

    def names(self, column: str) -> list[str]:
        """The names of a column's numbers; empty where the data set says none."""
        names = self.features.get(column, {}).get("names")
        if isinstance(names, dict):  # {"motors": [...]}
            names = next(iter(names.values()), None)
        return [str(name) for name in names] if isinstance(names, list) else []

    def held_out(self, number: int) -> bool:
        return any(low <= number < high for name, (low, high) in self.splits.items() if name in HELD_OUT)

    def file(self, kind: str, **places: Any) -> Path:
        """A file by its pattern in info.json. Raises: DataError where that leads out of the data set."""
        pattern = self.patterns[kind]

        def filled(match: re.Match[str]) -> str:
            name, width = match[1], match[2]
            if name not in places:
                raise DataError(f"{self.info}: {kind}: found {{{name}}}, allowed are {', '.join(places)}")
            return f"{places[name]:0{width}d}" if width else str(places[name])

        name = re.sub(r"\{(\w+)(?::0?(\d{1,2})d)?\}", filled, pattern)
        if name.startswith(("/", "~")) or ".." in Path(name).parts or set("{}\0") & set(name):
            raise DataError(f"{self.info}: {kind}: found '{pattern[:80]}', needed a path below the data set")
        return self.folder / name

    def entries(self) -> Sequence[Entry]:
        """Every episode, by number. Raises: DataError."""
        return _entries(self.folder, _mark(self.info))


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a LeRobot data set, of whatever version. Raises: DataError for a damaged info.json."""
    path = folder / INFO_FILE
    return path.is_file() and "codebase_version" in _json(path)


def open_dataset(folder: Path) -> LeRobotDataset:
    """Read `meta/info.json`, once until it changes. Raises: DataError naming file and field."""
    return _dataset(folder, _mark(folder / INFO_FILE), _mark(folder / HINTS_FILE))


def _mark(path: Path) -> tuple[int, int]:
    """Changes with a file; (0, 0) where there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=32)
def _dataset(folder: Path, mark: object, hints_mark: object) -> LeRobotDataset:
    path = folder / INFO_FILE
    info = _json(path)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DataError(f"{path}: codebase_version: found {str(version)[:20]!r}, allowed are {', '.join(VERSIONS)}")
    count, fps, features = info.get("total_episodes"), info.get("fps"), info.get("features")
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_EPISODES:
        raise DataError(f"{path}: total_episodes: found {str(count)[:20]!r}, allowed are 0 to {MOST_EPISODES}")
    if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not 0 < fps <= 1000:
        raise DataError(f"{path}: fps: found {str(fps)[:20]!r}, allowed are rates to 1000 frames per second")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise DataError(f"{path}: features: needed a mapping of columns")
    patterns = {kind: info.get(kind) or "" for kind in ("data_path", "video_path")}
    if not all(isinstance(pattern, str) for pattern in patterns.values()) or not patterns["data_path"]:
        raise DataError(f"{path}: data_path, video_path: needed patterns of file names")
    chunk = info.get("chunks_size", 1000)
    if not isinstance(chunk, int) or chunk < 1:
        raise DataError(f"{path}: chunks_size: found {str(chunk)[:20]!r}, needed a whole number from 1")
    splits = _splits(info.get("splits"), path)
    hints = read_description(folder / HINTS_FILE)
    robot = str(info.get("robot_type") or "")
    return LeRobotDataset(folder, version, float(fps), count, features, patterns, chunk, splits, robot, hints)


def _splits(found: Any, path: Path) -> dict[str, tuple[int, int]]:
    """{"train": "0:40"} as numbers. Raises: DataError."""
    splits = {}
    for name, text in (found or {}).items() if isinstance(found, (dict, type(None))) else [("", found)]:
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text) if isinstance(text, str) else None
        if match is None:
            raise DataError(f"{path}: splits: found {str(text)[:40]!r}, needed {{NAME: 'FIRST:END'}}")
        splits[str(name)] = (int(match[1]), int(match[2]))
    return splits


@lru_cache(maxsize=8)
def _entries(folder: Path, mark: object) -> Sequence[Entry]:
    dataset = open_dataset(folder)
    entries = _entries_v3(dataset) if dataset.version == "v3.0" else _entries_v2(dataset)
    if len(entries) != dataset.count or any(entry.number != place for place, entry in enumerate(entries)):
        where = "meta/episodes" if dataset.version == "v3.0" else "meta/episodes.jsonl"
        raise DataError(
            f"{folder / where}: found {len(entries)} episodes, {INFO_FILE} names {dataset.count}, numbered from 0"
        )
    return entries


def _entries_v3(dataset: LeRobotDataset) -> list[Entry]:
    films = [name for name, feature in dataset.features.items() if feature.get("dtype") == "video"]
    needed = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    needed += [f"videos/{name}/{what}" for name in films for what in ("chunk_index", "file_index", "from_timestamp")]
    own = [f"{OWN}{what}" for what in ("success", "complete", "metadata")]
    found = []
    for path in sorted((dataset.folder / "meta" / "episodes").glob("*/*.parquet")):
        table = read_table(path, needed, own)
        for row in table.to_pylist():
            try:
                found.append(_entry(dataset, row, films, path))
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}: episode {str(row.get('episode_index'))[:20]}: damaged ({error})") from error
    return sorted(found, key=lambda entry: entry.number)


def _entry(dataset: LeRobotDataset, row: Mapping[str, Any], films: Sequence[str], path: Path) -> Entry:
    """One row of the table of episodes. Raises: DataError, TypeError, ValueError."""
    places: dict[str, tuple[Path, float]] = {}
    for name in films:
        chunk, file = int(row[f"videos/{name}/chunk_index"]), int(row[f"videos/{name}/file_index"])
        place = dataset.file("video_path", video_key=name, chunk_index=chunk, file_index=file)
        places[name] = place, float(row[f"videos/{name}/from_timestamp"])
    rows = dataset.file("data_path", chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"]))
    success, complete = row.get(f"{OWN}success"), row.get(f"{OWN}complete")
    if not isinstance(success, (bool, type(None))) or not isinstance(complete, (bool, type(None))):
        raise DataError(f"{path}: {OWN}success, {OWN}complete: needed truth values")
    text = row.get(f"{OWN}metadata")
    metadata = None if text is None else parse_json(text)
    if not isinstance(metadata, (dict, type(None))):
        raise DataError(f"{path}: {OWN}metadata: found {type(metadata).__name__}, needed a mapping")
    tasks = tuple(str(task) for task in row["tasks"] or ())
    number, length = int(row["episode_index"]), int(row["length"])
    return Entry(number, length, tasks, rows, places, success, complete is not False, metadata)


def _entries_v2(dataset: LeRobotDataset) -> list[Entry]:
    path = dataset.folder / "meta" / "episodes.jsonl"
    films = [name for name, feature in dataset.features.items() if feature.get("dtype") == "video"]
    found = []
    for line in read_json_lines(path):
        number, length, tasks = line.get("episode_index"), line.get("length"), line.get("tasks")
        if not isinstance(number, int) or not isinstance(length, int) or not isinstance(tasks, list):
            raise DataError(f"{path}: needed episode_index, length and tasks in each line, found {str(line)[:80]}")
        places = {"episode_chunk": number // dataset.chunk, "episode_index": number}
        shown = {name: (dataset.file("video_path", video_key=name, **places), 0.0) for name in films}
        texts = tuple(str(task) for task in tasks)
        found.append(Entry(number, length, texts, dataset.file("data_path", **places), shown))
    return sorted(found, key=lambda entry: entry.number)


def need_arrow() -> None:
    """Raises: ConfigError where the package that reads and writes tables is missing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("LeRobot data sets need the Python package 'pyarrow'; `gymnast doctor` says how to get it")


def read_table(path: Path, needed: Sequence[str], wanted: Sequence[str] = (), where: Any = None) -> Any:
    """Columns of a Parquet file as an Arrow table: those needed, and those wanted that there are.

    where: pyarrow's filter. Raises: DataError naming the file and a column that is missing.
    """
    need_arrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
        if missing := [name for name in needed if name not in there]:
            raise DataError(f"{path}: found no column '{missing[0]}'; there are {', '.join(there)[:200]}")
        columns = [*needed, *(name for name in wanted if name in there)]
        table = pq.read_table(
            path, columns=columns, filters=where, use_threads=False, partitioning=None, page_checksum_verification=True
        )
        table.validate(full=True)  # text that is none, for instance
        return table
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: cannot read the table ({' '.join(str(error).split())[:160]})") from error


def numbers(table: Any, column: str, width: int, path: Path) -> np.ndarray:
    """A column of lists of `width` numbers as (rows, width) float32; null becomes NaN. Raises: DataError."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = table[column].combine_chunks()
    try:
        if not pa.types.is_primitive(array.type):
            lengths = set(pc.unique(pc.list_value_length(array)).to_pylist()) - {width}
            if lengths:
                raise DataError(f"{path}: {column}: found {lengths.pop() or 'no'} numbers in a row, needed {width}")
            array = array.flatten()
        values = array.to_numpy(zero_copy_only=False).astype(np.float32)
        return values.reshape(table.num_rows, width)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: {column}: needed {width} numbers in each row ({str(error)[:80]})") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error

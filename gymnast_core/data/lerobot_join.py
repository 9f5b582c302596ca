"""Pieces of single episodes become a LeRobot data set: few large tables and films, and the `meta` folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.dataset_writer import DatasetSettings
from gymnast_core.data.film_writer import join_films
from gymnast_core.data.lerobot_dataset import (
    ACTION,
    AXES,
    EXECUTED,
    FACTS,
    INFO_FILE,
    MEASURED,
    OWN,
    STAMP,
    STATE,
    TRUTH,
)
from gymnast_core.data.lerobot_stats import of_dataset
from gymnast_core.files import read_json, write_json
from gymnast_core.progress import check_stop

CAMERA = "observation.images.image"
CHUNK, ROWS_MB, FILM_MB = 1000, 100, 200
"""Files in a folder, and about how large a file of rows or a film becomes, as lerobot has them."""
ROWS_PATTERN = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FILM_PATTERN = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def join_pieces(pieces: Sequence[Path], whole: Path, plan: Mapping[str, Any], settings: DatasetSettings) -> None:
    """pieces: a folder for each episode, in order. whole: the data set's folder, which does not exist.

    Raises: DataError, OSError.
    """
    abouts = [read_json(piece / "about.json") for piece in pieces]
    tasks = list(dict.fromkeys(about["instruction"] for about in abouts))
    begins = np.cumsum([0, *(about["length"] for about in abouts)]).tolist()
    rows: list[dict[str, Any]] = []
    for number, about in enumerate(abouts):
        row = {
            "episode_index": number,
            "tasks": [about["instruction"]],
            "length": about["length"],
            "dataset_from_index": begins[number],
            "dataset_to_index": begins[number + 1],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            **{f"{OWN}{name}": about[name] for name in ("success", "complete", "metadata")},
        }
        flat = {f"stats/{key}/{name}": value for key, stats in about["stats"].items() for name, value in stats.items()}
        rows.append({**row, **flat})
    _join_rows(pieces, whole, rows, tasks)
    if settings.frames == "video":
        _join_films(pieces, whole, rows, plan["fps"])
    _write_meta(whole, rows, tasks, plan, settings)
    write_json(whole / "meta" / "stats.json", of_dataset([about["stats"] for about in abouts]))
    held_out = [about["held_out"] for about in abouts]
    write_json(whole / INFO_FILE, _info(plan, settings, held_out, begins[-1], len(tasks)), indent=4)


def _files(sizes: Sequence[int], limit_mb: int) -> Iterator[tuple[int, int, range]]:
    """Which episodes share a file: its chunk and number, and the episodes' numbers."""
    begin, held, file = 0, 0, 0
    for number, size in enumerate(sizes):
        if held and held + size > limit_mb * 1024**2:
            yield file // CHUNK, file % CHUNK, range(begin, number)
            begin, held, file = number, 0, file + 1
        held += size
    if sizes:
        yield file // CHUNK, file % CHUNK, range(begin, len(sizes))


def _join_rows(pieces: Sequence[Path], whole: Path, rows: list[dict[str, Any]], tasks: Sequence[str]) -> None:
    """One table after the other into few files, a group of rows for each episode."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = {text: number for number, text in enumerate(tasks)}
    for chunk, file, members in _files([(piece / "rows.parquet").stat().st_size for piece in pieces], ROWS_MB):
        path = whole / ROWS_PATTERN.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = None
        try:
            for number in members:
                check_stop()
                row = rows[number]
                row.update({"data/chunk_index": chunk, "data/file_index": file})
                table = pq.read_table(pieces[number] / "rows.parquet", use_threads=False)
                begin, length = row["dataset_from_index"], row["length"]
                for name, values in (
                    ("index", np.arange(begin, begin + length)),
                    ("task_index", np.full(length, places[row["tasks"][0]])),
                ):
                    table = table.set_column(table.column_names.index(name), name, pa.array(values))
                writer = writer or pq.ParquetWriter(path, table.schema, write_page_checksum=True)
                writer.write_table(table, row_group_size=max(1, length))
        finally:
            if writer is not None:
                writer.close()


def _join_films(pieces: Sequence[Path], whole: Path, rows: list[dict[str, Any]], fps: float) -> None:
    films = [piece / "film.mp4" for piece in pieces]
    for chunk, file, members in _files([film.stat().st_size for film in films], FILM_MB):
        target = whole / FILM_PATTERN.format(video_key=CAMERA, chunk_index=chunk, file_index=file)
        join_films([films[number] for number in members], target)
        before = 0
        for number in members:
            begin, before = before, before + rows[number]["length"]
            places = {
                "chunk_index": chunk,
                "file_index": file,
                "from_timestamp": begin / fps,
                "to_timestamp": before / fps,
            }
            rows[number].update({f"videos/{CAMERA}/{name}": value for name, value in places.items()})


def _write_meta(
    whole: Path, rows: list[dict[str, Any]], tasks: Sequence[str], plan: Mapping[str, Any], settings: DatasetSettings
) -> None:
    """The tables of episodes and tasks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = whole / EPISODES
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {f"{OWN}success": pa.bool_(), f"{OWN}complete": pa.bool_(), f"{OWN}metadata": pa.string()}
    table = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]}
    pq.write_table(pa.table(table), path, write_page_checksum=True)
    texts = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    index = {  # lerobot reads the texts as the index of a pandas table
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": plain, "metadata": None}
            for name, kind, plain in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
    }
    pq.write_table(texts.replace_schema_metadata({"pandas": json.dumps(index)}), whole / "meta" / "tasks.parquet")


def _info(
    plan: Mapping[str, Any], settings: DatasetSettings, held_out: Sequence[bool], frames: int, tasks: int
) -> dict[str, Any]:
    count, fps = len(held_out), plan["fps"]
    train = held_out.index(True) if True in held_out else count  # the converter puts those held out last
    splits = {name: f"{low}:{high}" for name, low, high in (("train", 0, train), ("test", train, count)) if low < high}
    return {
        "codebase_version": "v3.0",
        "robot_type": settings.robot,
        "total_episodes": count,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": ROWS_MB,
        "video_files_size_in_mb": FILM_MB,
        "fps": int(fps) if fps == int(fps) else fps,
        "splits": splits,
        "data_path": ROWS_PATTERN,
        "video_path": FILM_PATTERN if settings.frames == "video" else None,
        "features": _features(plan, settings),
    }


def _features(plan: Mapping[str, Any], settings: DatasetSettings) -> dict[str, Any]:
    """Of each column: type, shape and names, as lerobot wants them."""
    axes = {"dtype": "float32", "shape": [len(AXES)], "names": list(AXES)}
    state = {STATE: axes} if plan["measured"] else {MEASURED: axes} if plan["some_measured"] else {}
    camera: dict[str, Any] = {"shape": plan["shape"], "names": ["height", "width", "channels"]}
    if settings.frames == "video":
        height, width, _ = plan["shape"]
        about = {"height": height, "width": width, "codec": "h264", "fps": plan["fps"], "channels": 3}
        about |= {"pix_fmt": "yuv444p" if height % 2 or width % 2 else "yuv420p", "is_depth_map": False}
        camera |= {"dtype": "video", "info": {**{f"video.{k}": v for k, v in about.items()}, "has_audio": False}}
    else:
        camera["dtype"] = "image"

    def single(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    return {
        ACTION: axes,
        **state,
        **({TRUTH: single("bool")} if plan["truths"] else {}),
        CAMERA: camera,
        EXECUTED: axes,
        STAMP: single("int64"),
        FACTS: single("string"),
        "timestamp": single("float32"),
        **{name: single("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
    }

"""Clips for training: folders of episodes of every format, mixed with weights.

Every data folder is read once; its frames (or latents, for a frozen autoencoder) lie in one flat file that is mapped
into memory, so that the second run starts at once and a data set may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gymnast_core.data.formats import StoredEpisode, find_all, open_episode
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.hub_names import is_hub_name
from gymnast_core.plain_json import parse_json
from gymnast_core.progress import progress_bar, readers
from gymnast_core.world_model.actions import frame_conditions

READING = "vectors as they are in the file"
"""How episodes are read: what was kept from another way of reading is not used again."""


@dataclass(frozen=True)
class EpisodeFile:
    """One episode of any format by its path, for scripts."""

    path: Path

    def read(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames and the vectors that condition them, see `read_clip`. Raises: DataError."""
        return read_clip(open_episode(self.path), size)


def read_clip(file: StoredEpisode, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T + 1, size, size, 3) uint8 and, for each, the vector (T + 1, 10) of the action that led to it; T is
    the episode's `answered`. Vectors that the file keeps are its own, whatever robot they are of; the first is zero,
    since no action led to the first frame.

    Raises: DataError.
    """
    vectors = file.vectors()
    whole = True
    if vectors is None:
        episode = file.steps()
        executed = check_bridge(episode.executed[: episode.answered], f"{file.path}: executed")
        vectors, whole = frame_conditions(executed), len(executed) == episode.length
    else:
        vectors[:1] = 0.0  # no action led to the first frame, as in a rollout
    length = len(vectors) - 1
    if length < 1:
        raise DataError(f"{file.path}: no executed step in it, needed at least 2 frames")
    frames = np.empty((length + 1, size, size, 3), dtype=np.uint8)
    count = 0
    pictures = file.frames(size)
    for count, frame in enumerate(pictures if whole else islice(pictures, length + 1), start=1):
        if count <= len(frames):
            frames[count - 1] = frame
    if count != len(frames):
        raise DataError(f"{file.path}: found {count} frames, needed {len(frames)}, one more than actions")
    return frames, vectors


def split(files: Sequence[StoredEpisode], fraction: float) -> tuple[list[StoredEpisode], list[StoredEpisode]]:
    """(training, held-out): by the data's own test episodes where there are any, otherwise by a hash of the name.

    The hash keeps an episode on its side when more data arrive. Where both sides can have one, both have one.
    """
    if any(file.held_out for file in files):
        return [f for f in files if not f.held_out], [f for f in files if f.held_out]
    if fraction <= 0:
        return list(files), []
    score = {file: zlib.crc32(file.path.name.encode() + file.path.parent.name.encode()) / 2**32 for file in files}
    held = [file for file in files if score[file] < fraction]
    if not held and len(files) > 1:
        held = [min(files, key=score.__getitem__)]
    if len(held) == len(files):
        held = held[:-1]
    chosen = set(held)
    return [file for file in files if file not in chosen], held


def parse_source(text: str) -> tuple[str, float]:
    """`FOLDER` or `FOLDER@WEIGHT`: weight 2 draws each of its frames twice as often as without.

    A name of the Hub has its own "@" before that of the weight: `hf:OWNER/NAME@REVISION@WEIGHT`.
    """
    folder, at, weight = text.rpartition("@")
    if not at or (is_hub_name(text) and "@" not in folder):
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    if not (0 < value < 1e6):
        raise ConfigError(f"data: weight of {text!r} is {weight}, must be a positive number")
    return folder, value


@dataclass(frozen=True)
class FlatEpisodes:
    """Episodes laid end to end.

    values: (total frames, ...) mapped array: frames uint8 or latents float16. conditions: (total frames, 10) float32.
    starts, lengths: (episodes,) first frame and number of frames of each episode. weights: (episodes,), sum 1.
    names: (episodes,) where each came from.
    """

    values: list[np.ndarray]
    part: np.ndarray
    conditions: list[np.ndarray]
    starts: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray
    names: list[str]

    @property
    def total_frames(self) -> int:
        return int(self.lengths.sum())


def flatten(
    sources: Sequence[str],
    *,
    size: int,
    cache: str | Path,
    held_out: float,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    transform_id: str = "frames",
) -> tuple[FlatEpisodes, list[StoredEpisode]]:
    """Read all sources for training; returns the flat episodes and the held-out files.

    size: frames are squashed to size x size. transform: (n, size, size, 3) uint8 -> (n, ...) array to store instead.
    Raises DataError for unreadable episodes and empty folders, ConfigError for bad weights.
    """
    values, conditions, held = [], [], []
    part: list[np.ndarray] = []
    names: list[str] = []
    starts: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    if not sources:
        raise ConfigError("data: nothing given, needed at least one folder of episodes (FOLDER or FOLDER@WEIGHT)")
    for index, text in enumerate(sources):
        folder, weight = parse_source(text)
        files, kept_back = split(find_all(folder), held_out)
        held += kept_back
        if not files:
            raise DataError(f"{folder}: every episode is held out; lower held_out or add episodes")
        array, vectors, counts = _cached(files, folder, size, Path(cache), transform, transform_id)
        values.append(array)
        conditions.append(vectors)
        part.append(np.full(len(counts), index))
        starts.append(np.concatenate(([0], np.cumsum(counts)[:-1])))
        lengths.append(counts)
        names += [str(file.path) for file in files]
        share = counts / counts.sum()
        weights.append(weight * counts.sum() * share)
    joined = np.concatenate(weights)
    flat = FlatEpisodes(
        values,
        np.concatenate(part),
        conditions,
        np.concatenate(starts).astype(np.int64),
        np.concatenate(lengths).astype(np.int64),
        joined / joined.sum(),
        names,
    )
    return flat, held


def _cached(
    files: list[StoredEpisode],
    title: str,
    size: int,
    cache: Path,
    transform: Callable[[np.ndarray], np.ndarray] | None,
    transform_id: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    key = hashlib.sha256(
        "\n".join([READING, str(size), transform_id, *(f.stamp() for f in files)]).encode()
    ).hexdigest()[:20]
    folder = cache / key
    if not (folder / "index.json").is_file():
        _build(files, title, size, folder, transform)
    index = parse_json((folder / "index.json").read_text(encoding="utf-8"))
    shape = tuple(index["shape"])
    values = np.memmap(folder / "values.bin", dtype=index["dtype"], mode="r", shape=shape)
    return values, np.load(folder / "conditions.npy", allow_pickle=False), np.array(index["lengths"], np.int64)


def _build(
    files: list[StoredEpisode],
    title: str,
    size: int,
    folder: Path,
    transform: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    lengths: list[int] = []
    vectors: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    dtype = "uint8"
    try:
        temporary.mkdir(parents=True)
        workers = max(1, min(8, torch.get_num_threads()))
        with (
            open(temporary / "values.bin", "wb") as stream,
            readers(workers) as pool,
            progress_bar() as bar,
        ):
            task = bar.add_task(f"reading {title}", total=len(files), note="")
            remaining = iter(files)
            pending = [pool.submit(read_clip, file, size) for file in islice(remaining, 2 * workers)]
            while pending:
                frames, condition = pending.pop(0).result()
                pending += [pool.submit(read_clip, file, size) for file in islice(remaining, 1)]
                stored = np.ascontiguousarray(transform(frames) if transform else frames)
                shape, dtype = stored.shape[1:], str(stored.dtype)
                stream.write(stored.tobytes())
                lengths.append(len(stored))
                vectors.append(condition)
                bar.advance(task)
        np.save(temporary / "conditions.npy", np.concatenate(vectors))
        index = {"shape": [sum(lengths), *shape], "dtype": dtype, "lengths": lengths}
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot write the cache: {error.strerror or error}; free disk space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class ClipBatch:
    """values (B, T, ...), conditions (B, T, 10), valid (B, T) bool: False past the end of a short episode.

    names: where each clip came from.
    """

    values: Tensor
    conditions: Tensor
    valid: Tensor
    names: list[str]


def draw_clips(flat: FlatEpisodes, count: int, frames: int, generator: np.random.Generator) -> ClipBatch:
    """`count` clips of consecutive frames; an episode shorter than a clip repeats its last frame, marked not valid."""
    episodes = generator.choice(len(flat.lengths), size=count, p=flat.weights)
    values, conditions, valid = [], [], []
    for episode in episodes:
        length, start = int(flat.lengths[episode]), int(flat.starts[episode])
        offset = int(generator.integers(0, max(0, length - frames) + 1))
        window = np.minimum(np.arange(offset, offset + frames), length - 1)
        part = int(flat.part[episode])
        values.append(np.asarray(flat.values[part][start + window]))
        conditions.append(flat.conditions[part][start + window])
        valid.append(np.arange(offset, offset + frames) < length)
    return ClipBatch(
        torch.from_numpy(np.stack(values)),
        torch.from_numpy(np.stack(conditions)),
        torch.from_numpy(np.stack(valid)),
        [flat.names[episode] for episode in episodes],
    )


def draw_frames(flat: FlatEpisodes, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(frames, first frames of their episodes), each (count, ...)."""
    episodes = generator.choice(len(flat.lengths), size=count, p=flat.weights)
    frames, firsts = [], []
    for episode in episodes:
        length, start, part = int(flat.lengths[episode]), int(flat.starts[episode]), int(flat.part[episode])
        frames.append(flat.values[part][start + int(generator.integers(0, length))])
        firsts.append(flat.values[part][start])
    return np.stack(frames), np.stack(firsts)

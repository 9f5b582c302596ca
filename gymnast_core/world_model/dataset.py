"""Clips for training: folders of gymnast episodes and of WorldGym's layout alike, mixed with weights.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gymnast_core.data.episode import iterate_episodes, read_episode
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.worldgym import find_worldgym_episodes, read_worldgym_episode
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.progress import progress_bar
from gymnast_core.world_model.actions import frame_conditions


@dataclass(frozen=True)
class EpisodeFile:
    """One episode on disk. path: an episode folder, or the .mp4 of WorldGym's layout."""

    path: Path

    def read(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (T + 1, size, size, 3) uint8 and, for each, the vector (T + 1, 10) of the action that led to it; T is
        the episode's `answered`.
        """
        if self.path.suffix == ".mp4":
            episode = read_worldgym_episode(self.path, size)
        else:
            episode = read_episode(self.path)
        length = episode.answered
        if length < 1:
            raise DataError(f"{self.path}: no executed step in it, needed at least 2 frames")
        frames = np.stack([resize_frame(frame, size) for frame in episode.frames[: length + 1]])
        return frames, frame_conditions(episode.executed[:length])

    @property
    def held_out(self) -> bool:
        """WorldGym's layout says so itself: <subset>/test/N.mp4."""
        return self.path.suffix == ".mp4" and self.path.parent.name == "test"

    def stamp(self) -> str:
        """Changes when one of the episode's files does."""
        parts = [str(self.path.resolve())]
        video = self.path.suffix == ".mp4"
        for file in (self.path, self.path.with_suffix(".npz")) if video else (self.path / "steps.jsonl",):
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(f"{file}: cannot read: {error.strerror or error}") from error
            parts.append(f"{status.st_size}:{status.st_mtime_ns}")
        return ":".join(parts)


def find_all(folder: str | Path) -> list[EpisodeFile]:
    """Every episode below a folder, both layouts, sorted; DataError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of episodes")
    found = [EpisodeFile(path) for path in (*iterate_episodes(folder), *find_worldgym_episodes(folder))]
    if not found:
        raise DataError(
            f"{folder}: no episode below it; needed folders with episode.json or N.mp4 with N.npz beside it"
        )
    return found


def split(files: Sequence[EpisodeFile], fraction: float) -> tuple[list[EpisodeFile], list[EpisodeFile]]:
    """(training, held-out): by WorldGym's own test folders where there are any, otherwise by a hash of the name.

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
    """`FOLDER` or `FOLDER@WEIGHT`: weight 2 draws each of its frames twice as often as without."""
    folder, at, weight = text.rpartition("@")
    if not at:
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
) -> tuple[FlatEpisodes, list[EpisodeFile]]:
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
    files: list[EpisodeFile],
    title: str,
    size: int,
    cache: Path,
    transform: Callable[[np.ndarray], np.ndarray] | None,
    transform_id: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    key = hashlib.sha256("\n".join([str(size), transform_id, *(f.stamp() for f in files)]).encode()).hexdigest()[:20]
    folder = cache / key
    if not (folder / "index.json").is_file():
        _build(files, title, size, folder, transform)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    shape = tuple(index["shape"])
    values = np.memmap(folder / "values.bin", dtype=index["dtype"], mode="r", shape=shape)
    return values, np.load(folder / "conditions.npy", allow_pickle=False), np.array(index["lengths"], np.int64)


def _build(
    files: list[EpisodeFile], title: str, size: int, folder: Path, transform: Callable[[np.ndarray], np.ndarray] | None
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
            ThreadPoolExecutor(workers) as pool,
            progress_bar() as bar,
        ):
            task = bar.add_task(f"reading {title}", total=len(files), note="")
            remaining = iter(files)
            pending = [pool.submit(file.read, size) for file in islice(remaining, 2 * workers)]
            while pending:
                frames, condition = pending.pop(0).result()
                pending += [pool.submit(file.read, size) for file in islice(remaining, 1)]
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

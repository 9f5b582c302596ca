"""Training samples from episodes: one for every step, the frame before it and the chunk of actions that follow.

Whatever an episode is stored in, training sees a `TrainingEpisode`. There are readers of gymnast episodes
(`episode.json`) and of WorldGym's layout (`N.mp4` with `N.npz`, the instruction in `N.json` or given for the whole
folder); another layout is one more class and one more entry of `READERS`. Only small things are held for good;
frames are read when needed and kept while they fit the memory set aside.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Literal, Protocol

import numpy as np

from gymnast_core.data.episode import iterate_episodes, read_episode
from gymnast_core.data.frames import MAX_SIDE, MIN_SIDE, read_image
from gymnast_core.data.worldgym import find_worldgym_episodes, read_worldgym_episode
from gymnast_core.errors import DataError
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.policy.statistics import GRIPPER
from gymnast_core.progress import console, progress_bar
from gymnast_core.run_folder import derive_seed

Labels = Literal["executed", "commanded"]
Kept = Literal["all", "not failures", "successes"]
"""Which episodes are used: those nobody judged are no failures, and no successes either."""
PNG_END = bytes.fromhex("0000000049454e44ae426082")
PNG_HEADER = 33
PNG_RGB = (2, 3)
PNG_COLOURS = {0: "grey", 2: "RGB", 3: "a palette", 4: "grey with transparency", 6: "RGB with transparency"}
MANY = 100
"""From so many episodes on, reading them shows a bar."""
OUTCOMES = {"all": (True, False, None), "not failures": (True, None), "successes": (True,)}


class TrainingEpisode(Protocol):
    """One episode as training sees it."""

    @property
    def path(self) -> Path: ...

    @property
    def instruction(self) -> str: ...

    @property
    def actions(self) -> np.ndarray:
        """(T, 7) float32, Bridge convention."""
        ...

    def frames(self, step: int) -> dict[int, np.ndarray]:
        """The frame before action `step`, and what came with it at no cost: (H, W, 3) uint8 by step."""
        ...


@dataclass(frozen=True)
class StoredEpisode:
    """A gymnast episode: a picture file a frame."""

    path: Path
    instruction: str
    actions: np.ndarray

    def frames(self, step: int) -> dict[int, np.ndarray]:
        """That frame alone. Raises: DataError when its file is broken."""
        return {step: read_image(self.path / "frames" / f"{step:06d}.png")}


@dataclass(frozen=True)
class VideoEpisode:
    """An episode in WorldGym's layout: a video."""

    path: Path
    instruction: str
    actions: np.ndarray

    def frames(self, step: int) -> dict[int, np.ndarray]:
        """All of them: a video is decoded from its beginning anyhow. Raises: DataError when it is broken."""
        return dict(enumerate(read_worldgym_episode(self.path).frames[: len(self.actions)]))


@dataclass(frozen=True)
class _Found:
    """An episode with the outcome that somebody gave it."""

    episode: TrainingEpisode
    success: bool | None


def _read_stored(path: Path, instruction: str, labels: Labels) -> _Found:
    episode = read_episode(path, frames=False)
    actions = episode.executed if labels == "executed" else episode.actions
    for step in range(len(actions)):
        _check_picture(path / "frames" / f"{step:06d}.png")
    text = _instruction(episode.instruction, instruction, path)
    return _Found(StoredEpisode(path, text, actions), episode.success)


def _read_worldgym(path: Path, instruction: str, labels: Labels) -> _Found:
    text, success = _sidecar(path)
    actions = read_worldgym_episode(path).actions
    return _Found(VideoEpisode(path, _instruction(text, instruction, path), actions), success)


def _check_picture(path: Path) -> None:
    """Whether a PNG is there, whole, 8-bit RGB and of a usable size, without decoding it: said now, not hours later,
    when it is drawn. Raises: DataError naming it.
    """
    try:
        with open(path, "rb") as stream:
            header = stream.read(PNG_HEADER)
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - len(PNG_END)))
            whole = stream.read() == PNG_END
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    if not whole or len(header) < PNG_HEADER:
        raise DataError(f"{path}: not a whole PNG image; remove the episode or record it again")
    depth, colours = header[24], header[25]  # of its first chunk, IHDR
    if depth == 16 or colours not in PNG_RGB:
        raise DataError(
            f"{path}: found {PNG_COLOURS.get(colours, 'unknown colours')} of {depth} bits, needed RGB of 8 bits; "
            "convert the image first"
        )
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (16, 20))
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise DataError(f"{path}: found {width}x{height} pixels, allowed are sides of {MIN_SIDE} to {MAX_SIDE} pixels")


Finder = Callable[[Path], Iterable[Path]]
Reader = Callable[[Path, str, Labels], _Found]
READERS: tuple[tuple[Finder, Reader], ...] = (
    (iterate_episodes, _read_stored),
    (find_worldgym_episodes, _read_worldgym),
)


def find_entries(
    folders: Sequence[str], instruction: str = "", labels: Labels = "executed", kept: Kept = "not failures"
) -> list[TrainingEpisode]:
    """All episodes below `folders`, in order of path, each once however often it is named.

    instruction: for episodes that carry none. labels: what the safety envelope let through, or what was commanded.

    Raises: DataError when a folder holds no episode or none that is used, or when an episode is broken (its file is
        named) or has no instruction, or `instruction` is none.
    """
    entries: list[TrainingEpisode] = []
    seen: set[Path] = set()
    if instruction:
        normalise_instruction(instruction)
    for folder in folders:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such data folder")
        found = [(path, reader) for find, reader in READERS for path in find(root)]
        if not found:
            raise DataError(f"{root}: no episode (episode.json, or N.mp4 with N.npz) below it")
        found = [(path, reader) for path, reader in found if path.resolve() not in seen]
        seen |= {path.resolve() for path, _ in found}
        before, unmeasured = len(entries), 0
        bar = progress_bar()  # of videos every frame is decoded
        bar.disable = len(found) < MANY
        with bar:
            task = bar.add_task(f"reading {root}", total=len(found), note="")
            for path, reader in found:
                entry = reader(path, instruction, labels)
                bar.advance(task)
                if entry.success not in OUTCOMES[kept]:
                    continue
                actions = entry.episode.actions
                if len(actions) and np.isfinite(actions).all():
                    entries.append(entry.episode)
                else:
                    unmeasured += 1
        if unmeasured:
            say(f"{root}: {unmeasured} of {len(found)} episodes left out: no step, or an action was not measured")
        if found and len(entries) == before:
            wanted = {
                "all": "with measured actions",
                "not failures": "a success, or not judged, with measured actions",
                "successes": "judged a success, with measured actions",
            }
            raise DataError(f"{root}: {len(found)} episodes, none of them {wanted[kept]}")
    return entries


def say(text: str) -> None:
    """A line for people, as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def split_entries(
    entries: Sequence[TrainingEpisode], holdout: float, seed: int
) -> tuple[list[TrainingEpisode], list[TrainingEpisode]]:
    """(training, held out): whole episodes, at least one held out where `holdout` > 0 and there are two."""
    n_held = min(len(entries) - 1, max(1, round(len(entries) * holdout))) if holdout > 0 and len(entries) > 1 else 0
    order = np.random.default_rng(derive_seed(seed, "split")).permutation(len(entries))
    held = set(order[:n_held].tolist())
    return [e for i, e in enumerate(entries) if i not in held], [entries[i] for i in sorted(held)]


def chunk_at(actions: np.ndarray, step: int, length: int) -> np.ndarray:
    """Actions step .. step + length - 1 (length, 7); past the end: no motion, the gripper as it was last."""
    chunk = actions[step : step + length]
    if len(chunk) == length:
        return chunk
    still = np.zeros((length - len(chunk), actions.shape[1]), dtype=actions.dtype)
    still[:, GRIPPER] = actions[-1, GRIPPER]
    return np.concatenate([chunk, still])


class Samples:
    """Every step of every episode as (frame, instruction, chunk of actions), with a bounded cache of frames.

    cache_bytes: memory for frames.
    """

    def __init__(self, entries: Sequence[TrainingEpisode], chunk_length: int, cache_bytes: int = 2 * 1000**3) -> None:
        self.entries = list(entries)
        self.chunk_length = chunk_length
        self._index = [(e, step) for e, entry in enumerate(self.entries) for step in range(len(entry.actions))]
        self._budget = cache_bytes
        self._frames: dict[tuple[int, int], np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    def label(self, index: int) -> tuple[str, np.ndarray]:
        """(instruction, actions (K, 7))."""
        e, step = self._index[index]
        return self.entries[e].instruction, chunk_at(self.entries[e].actions, step, self.chunk_length)

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        e, step = self._index[index]
        with self._lock:
            kept = self._frames.get((e, step))
        if kept is not None:
            return kept
        frames = self.entries[e].frames(step)
        self._keep({(e, number): frame for number, frame in frames.items()})
        return frames[step]

    def _keep(self, frames: dict[tuple[int, int], np.ndarray]) -> None:
        size = sum(frame.nbytes for frame in frames.values())
        with self._lock:
            if size <= self._budget and not frames.keys() <= self._frames.keys():  # another thread may have been faster
                self._budget -= size
                self._frames.update(frames)


class Order:
    """Which sample comes k-th: epochs over the demonstrations, with a stated share drawn from a second source.

    Stateless: the k-th sample depends on (seed, k) alone, so a run resumes at any place.

    share: part of the samples taken from the second source, 0 to 1.
    """

    def __init__(self, n_first: int, n_second: int, share: float, seed: int) -> None:
        self._counts = (n_first, n_second)
        self._share = share if n_second else 0.0
        self._seed = seed
        # Several threads ask at once, each perhaps for another epoch.
        self._permutation = lru_cache(maxsize=16)(self._draw)

    def __call__(self, k: int) -> tuple[int, int]:
        """(source 0 or 1, index within it)."""
        before, after = int(np.floor(k * self._share)), int(np.floor((k + 1) * self._share))
        source = 1 if after > before else 0
        position = before if source else k - before
        epoch, place = divmod(position, self._counts[source])
        return source, int(self._permutation(source, epoch)[place])

    def _draw(self, source: int, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self._seed, "order", source, epoch))
        return generator.permutation(self._counts[source])


def _sidecar(video: Path) -> tuple[str, bool | None]:
    """Instruction and outcome in `N.json` beside `N.mp4`; empty and None where there is none."""
    path = video.with_suffix(".json")
    if not path.exists():
        return "", None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        text, success = content.get("instruction", ""), content.get("success")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: needed a JSON mapping with instruction and success ({error})") from error
    if not isinstance(text, str):
        raise DataError(f"{path}: instruction: found {type(text).__name__}, needed text")
    if not isinstance(success, (bool, type(None))):
        raise DataError(f"{path}: success: found {shorten(repr(success), 60)}, needed true, false or null")
    return text, success


def _instruction(own: str, default: str, path: Path) -> str:
    text = own or default
    if not text:
        raise DataError(f"{path}: no instruction; write one beside it (N.json) or give one with --instruction")
    try:
        return normalise_instruction(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error

"""Training samples from episodes: one for every step, the frame before it and the chunk of actions that follow.

Sources are folders of gymnast episodes (`episode.json`) and of WorldGym's layout (`N.mp4` with `N.npz`, the instruction
in `N.json` or given for the whole folder). Only small things are held for good; frames are read when needed and kept
while they fit the memory set aside.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gymnast_core.data.episode import iterate_episodes, read_episode
from gymnast_core.data.frames import read_image
from gymnast_core.data.worldgym import find_worldgym_episodes, read_worldgym_episode
from gymnast_core.errors import DataError
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.policy.statistics import GRIPPER
from gymnast_core.run_folder import derive_seed

Labels = Literal["executed", "commanded"]


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: where its frames are, and its actions (T, 7) float32."""

    path: Path
    instruction: str
    actions: np.ndarray
    is_video: bool

    def frames(self) -> list[np.ndarray]:
        """The T frames before each action, (H, W, 3) uint8."""
        if self.is_video:
            return list(read_worldgym_episode(self.path).frames[: len(self.actions)])
        return [self.frame(step) for step in range(len(self.actions))]

    def frame(self, step: int) -> np.ndarray:
        """One frame of a gymnast episode."""
        return read_image(self.path / "frames" / f"{step:06d}.png")


def find_entries(
    folders: Sequence[str], instruction: str = "", labels: Labels = "executed", successes_only: bool = True
) -> list[EpisodeEntry]:
    """All episodes below `folders`, in order of path.

    instruction: for episodes that carry none. labels: what the safety envelope let through, or what was commanded.
    successes_only: leave out episodes judged a failure (those nobody judged are kept).

    Raises: DataError when a folder holds no episode, or an episode has no instruction.
    """
    entries: list[EpisodeEntry] = []
    for folder in folders:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such data folder")
        found = list(iterate_episodes(root))
        videos = find_worldgym_episodes(root)
        if not found and not videos:
            raise DataError(f"{root}: no episode (episode.json, or N.mp4 with N.npz) below it")
        before = len(entries)
        for path in found:
            episode = read_episode(path, frames=False)
            if successes_only and episode.success is False:
                continue
            actions = episode.executed if labels == "executed" else episode.actions
            if len(actions) and np.isfinite(actions).all():
                entries.append(EpisodeEntry(path, _instruction(episode.instruction, instruction, path), actions, False))
        for path in videos:
            episode = read_worldgym_episode(path)
            text = _instruction(_sidecar(path), instruction, path)
            if episode.length:
                entries.append(EpisodeEntry(path, text, episode.actions, True))
        if len(entries) == before:
            raise DataError(f"{root}: {len(found) + len(videos)} episodes, none of them a usable success")
    return entries


def split_entries(
    entries: Sequence[EpisodeEntry], holdout: float, seed: int
) -> tuple[list[EpisodeEntry], list[EpisodeEntry]]:
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

    def __init__(self, entries: Sequence[EpisodeEntry], chunk_length: int, cache_bytes: int = 2 * 1000**3) -> None:
        self.entries = [replace(entry) for entry in entries]
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
        entry = self.entries[e]
        if not entry.is_video:
            frame = entry.frame(step)
            self._keep({(e, step): frame})
            return frame
        frames = entry.frames()  # a video is decoded from its beginning anyhow: keep all of it
        self._keep({(e, number): frame for number, frame in enumerate(frames)})
        return frames[step]

    def _keep(self, frames: dict[tuple[int, int], np.ndarray]) -> None:
        size = sum(frame.nbytes for frame in frames.values())
        with self._lock:
            if size <= self._budget:
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
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, k: int) -> tuple[int, int]:
        """(source 0 or 1, index within it)."""
        before, after = int(np.floor(k * self._share)), int(np.floor((k + 1) * self._share))
        source = 1 if after > before else 0
        position = before if source else k - before
        epoch, place = divmod(position, self._counts[source])
        if (source, epoch) not in self._permutations:
            for key in [key for key in self._permutations if key[0] == source and key[1] < epoch - 1]:
                del self._permutations[key]
            generator = np.random.default_rng(derive_seed(self._seed, "order", source, epoch))
            self._permutations[source, epoch] = generator.permutation(self._counts[source])
        return source, int(self._permutations[source, epoch][place])


def _sidecar(video: Path) -> str:
    """The instruction in `N.json` beside `N.mp4`, empty where there is none."""
    path = video.with_suffix(".json")
    if not path.exists():
        return ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["instruction"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: needed a JSON mapping with an 'instruction' ({error})") from error


def _instruction(own: str, default: str, path: Path) -> str:
    text = own or default
    if not text:
        raise DataError(f"{path}: no instruction; write one beside it (N.json) or give one with --instruction")
    try:
        return normalise_instruction(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error

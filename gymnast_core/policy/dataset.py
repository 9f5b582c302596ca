"""Training samples from episodes: one for every step, the frame before it and the chunk of actions that follow.

Episodes of every format (`gymnast_core.data.formats`) are read; where one carries no instruction, one is given for the
whole folder. Only small things are held for good; frames are read when needed and kept while they fit the memory set
aside.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from gymnast_core.data.formats import StoredEpisode, data_path, find_all, open_episode
from gymnast_core.data.frames import shrink_frame
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import DataError
from gymnast_core.policy.config import Labels
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.policy.statistics import GRIPPER
from gymnast_core.progress import progress_bar, say
from gymnast_core.seeds import derive_seed

Kept = Literal["all", "not failures", "successes"]
"""Which episodes are used: those nobody judged are no failures, and no successes either."""
KEPT_SIDE = 256
"""Frames are kept no larger than this: a station squashes its camera's pictures to its `observation_size`, 256 unless
changed, before a policy sees them."""
MANY = 100
"""From this many episodes on, reading them shows a bar."""
OUTCOMES = {"all": (True, False, None), "not failures": (True, None), "successes": (True,)}


@dataclass(frozen=True)
class TrainingEpisode:
    """One episode as training sees it. instruction: normalised. actions: (T, 7) float32, Bridge convention."""

    source: StoredEpisode
    instruction: str
    actions: np.ndarray

    @property
    def path(self) -> Path:
        """What names it on disk."""
        return self.source.path

    def frames(self, step: int, side: int = KEPT_SIDE, together: bool = False) -> dict[int, np.ndarray]:
        """The frame before action `step`, or `together` with those before all others: (H, W, 3) uint8 by step. What is
        larger than `side` is squashed to (side, side). Raises: DataError when a file is broken.
        """
        if not together:
            return {step: shrink_frame(self.source.frame(step), side)}
        count = len(self.actions)
        frames = enumerate(islice(self.source.frames(), count + 2))  # to the end, to find damage there too
        found = {k: shrink_frame(frame, side) for k, frame in frames if k < count}
        if len(found) < count:
            raise DataError(f"{self.path}: found {len(found)} frames, needed one for each of {count} actions")
        return found


@dataclass(frozen=True)
class VideoEpisode:
    """A film with what is said of it, for scripts. actions: (T, 7) float32, Bridge convention."""

    path: Path
    instruction: str
    actions: np.ndarray

    def frames(self, step: int) -> dict[int, np.ndarray]:
        """See `TrainingEpisode.frames`."""
        return TrainingEpisode(open_episode(self.path), self.instruction, self.actions).frames(step)


def _read(source: StoredEpisode, instruction: str, labels: Labels) -> tuple[TrainingEpisode, bool | None]:
    """The episode with its outcome; frames that lie in files of their own are looked at, not decoded."""
    episode = source.steps()
    actions = episode.executed if labels == "executed" else episode.actions
    check_bridge(actions, f"{source.path}: {'executed' if labels == 'executed' else 'action'}")
    if not source.decoded_together:
        source.check_frames(len(actions))
    entry = TrainingEpisode(source, _instruction(episode.instruction, instruction, source.path), actions)
    return entry, source.outcome().success


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
        root = data_path(folder)
        if not root.is_dir():
            raise DataError(f"{root}: no such data folder")
        found = [source for source in find_all(root) if source.path.resolve() not in seen]
        seen |= {source.path.resolve() for source in found}
        before, unmeasured = len(entries), 0
        bar = progress_bar()
        bar.disable = len(found) < MANY
        with bar:
            task = bar.add_task(f"reading {root}", total=len(found), note="")
            for source in found:
                entry, success = _read(source, instruction, labels)
                bar.advance(task)
                if success not in OUTCOMES[kept]:
                    continue
                if len(entry.actions) and np.isfinite(entry.actions).all():
                    entries.append(entry)
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

    cache_bytes: memory for frames. side: larger frames are squashed to (side, side).
    """

    def __init__(
        self,
        entries: Sequence[TrainingEpisode],
        chunk_length: int,
        cache_bytes: int = 2 * 1000**3,
        side: int = KEPT_SIDE,
    ) -> None:
        self.entries = list(entries)
        self.chunk_length = chunk_length
        self._index = [(e, step) for e, entry in enumerate(self.entries) for step in range(len(entry.actions))]
        self._budget = cache_bytes
        self._side = side
        self._decoding = [threading.Lock() for _ in self.entries]
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
        with self._decoding[e]:  # whoever comes second finds what the first has decoded
            kept = self._frames.get((e, step))
            if kept is not None:
                return kept
            frames = self.entries[e].frames(step, self._side, self._have_room(e))
            self._keep({(e, number): frame for number, frame in frames.items()})
        return frames[step]

    def _have_room(self, e: int) -> bool:
        """Whether all frames of an episode are worth decoding at once, and can be kept."""
        entry = self.entries[e]
        return entry.source.decoded_together and len(entry.actions) * self._side**2 * 3 <= self._budget

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


def _instruction(own: str, default: str, path: Path) -> str:
    text = own or default
    if not text:
        where = "write one beside it (docs/reference/formats.md says where) or give one with --instruction"
        raise DataError(f"{path}: no instruction; {where}")
    try:
        return normalise_instruction(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error

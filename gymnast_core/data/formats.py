"""The registry of episode formats: whatever reads episodes (`--data`, `--frame`, `--episode`) reads all of them.

A format has a name, a detector, a reader and, where it makes sense, a writer. A new one is a module with a `FORMAT` and
its line in `BUILT_IN`, or a call of `register_format`. The reader is a `StoredEpisode`: it reads nothing until it is
asked, and frames one at a time, so that the memory in use is that of one episode. docs/reference/formats.md says what
each format holds.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gymnast_core.data.dataset_writer import DatasetSettings, DatasetWriter
from gymnast_core.data.episode import Episode
from gymnast_core.data.labels import read_label
from gymnast_core.data.outcome import Outcome, labelled_outcome, logged_outcome
from gymnast_core.errors import ConfigError, DataError, LengthError
from gymnast_core.files import file_names, files_of_folders, user_path

BUILT_IN = (
    "gymnast_core.data.gymnast_episodes",
    "gymnast_core.data.worldgym_episodes",
    "gymnast_core.data.picture_episodes",
    "gymnast_core.data.lerobot_episodes",
    "gymnast_core.data.rlds_episodes",
    "gymnast_core.data.bag_episodes",
    "gymnast_core.data.trial_pictures",
)
"""Modules that hold a `FORMAT` each; of two formats that know a path, the first reads it."""


@dataclass(frozen=True)
class Description:
    """What an episode's log says of itself. instruction: empty where it has none. success: None where nobody judged; a
    person's label may know better (`StoredEpisode.outcome`)."""

    instruction: str = ""
    success: bool | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredEpisode(ABC):
    """One episode on disk, of T steps and T + 1 frames. Nothing is read before a method asks for it.

    Every method that reads raises DataError, which names the file and what is wrong in it.
    """

    path: Path
    """What names the episode: its folder, or its one file; or, in a data set of many, a name of its own below the data
    set's folder (`DATASET/episode_000012`), where nothing of that name need be."""
    decoded_together: ClassVar[bool] = False
    """Whether reading one frame costs the decoding of others, as in a film."""

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files whose size or time changes when the episode does, without one for each frame."""

    @abstractmethod
    def describe(self) -> Description:
        """Instruction, outcome and metadata; no actions are read."""

    @abstractmethod
    def steps(self) -> Episode:
        """The episode without its frames. Raises: DataError also where its actions are not Bridge's."""

    @abstractmethod
    def count(self) -> int:
        """The number of frames, counted without decoding."""

    @abstractmethod
    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Every frame (H, W, 3) uint8 RGB in order, one in memory at a time, squashed to (size, size) where given."""

    @abstractmethod
    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        """Frame `number` alone, counted from 0."""

    def seen_by(self, camera: str) -> StoredEpisode:
        """The same episode, with the frames of its camera of this name. Raises: DataError where there is none such."""
        raise DataError(f"{self.path}: camera: found '{camera}', but this format keeps one camera, without a name")

    def vectors(self) -> np.ndarray | None:
        """(T + 1, 10) float32: the rows that condition a world model, where the format keeps them: exactly as they
        are, of whatever robot; row k leads to frame k. None where the format keeps Bridge actions.
        """
        return None

    def bridge_steps(self) -> Episode | None:
        """As `steps`; None where the episode is whole and its rows are another robot's."""
        try:
            return self.steps()
        except LengthError:
            raise
        except DataError:
            if self.vectors() is None:
                raise
            return None

    def position(self, number: int) -> list[float] | None:
        """Measured end effector x, y, z (metres, base frame) in frame `number`; None where it was not measured."""
        return None

    def facts(self) -> Sequence[Mapping[str, Any]]:
        """What was logged of each step besides its action, such as "success", the station's own truth after it; empty
        where a format keeps no such thing.
        """
        return ()

    def truths(self) -> list[bool | None]:
        """Whether the task was done after each step, by the station's own truth; None where nothing says so."""
        found: list[bool | None] = []
        for fact in self.facts():
            value = fact.get("success")
            if isinstance(value, (int, float)) and value not in (0, 1):
                raise DataError(f"{self.path}: step {len(found)}: success: found {value}, allowed are true and false")
            found.append(bool(value) if isinstance(value, (int, float)) else None)
        return found

    def outcome(self) -> Outcome:
        """What is known of its success, by the best authority: a person's label, the station's truth, a judge.

        Raises: DataError also where a label is damaged, or was made of an episode of another length.
        """
        about, label = self.describe(), read_label(self.path)
        logged = logged_outcome(about.success, about.metadata, self.truths(), self.count, str(self.path))
        return logged if label is None else labelled_outcome(label, logged, self.count(), self.path)

    def check_frames(self, count: int) -> None:
        """Check that the first `count` frames are there and of an allowed kind, without decoding them."""
        if (found := self.count()) < count:
            raise DataError(f"{self.path}: found {found} frames, needed {count}")

    def instruction(self) -> str:
        """The episode's own instruction. Raises: DataError where it has none."""
        text = self.describe().instruction.strip()
        if not text:
            raise DataError(f"{self.path}: no instruction; write one beside it (docs/reference/formats.md says where)")
        return text

    @property
    def name(self) -> str:
        """The episode's own name, without folders and suffix."""
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def held_out(self) -> bool:
        """Whether the data set itself keeps this episode out of training."""
        return False

    def number(self, index: int) -> int:
        """The number of a frame, counted from the end where `index` is negative. Raises: DataError beyond."""
        count = self.count()
        if not -count <= index < count:
            raise DataError(
                f"{self.path}: found {count} frames, there is no index {index}; allowed are 0 to {count - 1}"
            )
        return index % count

    def pick(self, numbers: Sequence[int], size: int | None = None) -> np.ndarray:
        """The frames of these numbers (n, H, W, 3) uint8, in the order asked for."""
        if self.decoded_together:
            wanted = set(numbers)
            found = {k: frame for k, frame in enumerate(self.frames(size)) if k in wanted}
        else:
            found = {k: self.frame(k, size) for k in set(numbers)}
        if missing := set(numbers) - set(found):
            raise DataError(f"{self.path}: found no frame {min(missing)}")
        return self._stack([found[k] for k in numbers])

    def read(self, size: int | None = None) -> Episode:
        """The whole episode, frames squashed to (size, size) where given; frames of one size are needed otherwise."""
        episode = self.steps()
        frames = self._stack(list(self.frames(size)))
        if len(frames) != episode.length + 1:
            raise DataError(
                f"{self.path}: found {len(frames)} frames, needed {episode.length + 1}, one more than actions"
            )
        return replace(episode, frames=frames)

    def stamp(self) -> str:
        """Changes when one of the episode's files does."""
        parts = [str(self.path.resolve())]
        for file in self.files():
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(f"{file}: cannot read: {error.strerror or error}") from error
            parts.append(f"{status.st_size}:{status.st_mtime_ns}")
        return ":".join(parts)

    def _stack(self, frames: list[np.ndarray]) -> np.ndarray:
        if len(sizes := {frame.shape[:2] for frame in frames}) != 1:
            found = f"sizes {sorted(sizes)} (height, width)" if sizes else "none"
            raise DataError(f"{self.path}: frames: found {found}, needed one size for all frames")
        return np.stack(frames)


@dataclass(frozen=True)
class Format:
    """A way to keep episodes on disk.

    name: one word. layout: what an episode looks like, in a few words. find: the detector: given a folder and the names
    of the files in it (hidden ones left out), the paths of the episodes that they make up: the folder itself, or files
    in it, or names below it that the format makes up for the episodes of a data set. It is called for every folder
    below `--data`, and goes by names alone; only in a folder that is a data set of many episodes may it read how many
    there are. open: the reader of such a path. write: writes an `Episode` to a path that does not exist yet; None where
    the format cannot. open_writer: writes whole data sets (`gymnast data convert`); None where the format cannot.
    starts_only: its episodes have no step, so they are where rollouts begin, and no data to learn from or to label.
    """

    name: str
    layout: str
    find: Callable[[Path, Sequence[str]], Iterable[Path]]
    open: Callable[[Path], StoredEpisode]
    write: Callable[[Path, Episode], Path] | None = None
    starts_only: bool = False
    open_writer: Callable[[Path, DatasetSettings], DatasetWriter] | None = None


_registered: list[Format] = []


def formats() -> list[Format]:
    """Every format, in the order in which they are asked."""
    return [*(importlib.import_module(module).FORMAT for module in BUILT_IN), *_registered]


def register_format(added: Format) -> Format:
    """Add a format for the rest of the process. Raises: ConfigError where its name is taken."""
    if any(known.name == added.name for known in formats()):
        raise ConfigError(f"format: there is a format called '{added.name}' already; choose another name")
    _registered.append(added)
    return added


def layouts() -> str:
    """What episodes look like, for an error."""
    return ", or ".join(known.layout for known in formats() if not known.starts_only)


def episodes_in(folder: Path, starts: bool = False) -> list[StoredEpisode]:
    """The episodes that the files of this very folder make up. starts: also those that are nothing but a start."""
    names = file_names(folder)
    found: dict[Path, StoredEpisode] = {}
    for known in formats():
        for path in known.find(folder, names) if starts or not known.starts_only else ():
            found.setdefault(path, known.open(path))
    return list(found.values())


def episodes_below(root: str | os.PathLike[str], starts: bool = False) -> list[StoredEpisode]:
    """Every episode below `root`, by format and path; empty where there is none. No file is opened.

    starts: also those that are nothing but a start.
    """
    found: dict[Path, tuple[int, Format]] = {}
    known = [(place, form) for place, form in enumerate(formats()) if starts or not form.starts_only]
    for folder, names in files_of_folders(root):
        for place, form in known:
            for path in form.find(folder, names):
                found.setdefault(path, (place, form))
    return [form.open(path) for path, (_, form) in sorted(found.items(), key=lambda item: (item[1][0], item[0]))]


def find_all(folder: str | os.PathLike[str]) -> list[StoredEpisode]:
    """Every episode below a folder, by format and path. Raises: DataError where there is none."""
    root = user_path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of episodes")
    found = episodes_below(root)
    if not found:
        raise DataError(f"{root}: no episode below it; needed {layouts()}")
    return found


def episodes_of(paths: Sequence[str | os.PathLike[str]]) -> list[StoredEpisode]:
    """Every episode that these folders and files hold, each once; those that are nothing but a start, too.

    Raises: DataError where one of the paths names nothing, or a file that is no episode.
    """
    found: dict[Path, StoredEpisode] = {}
    for path in map(user_path, paths):
        for source in episodes_below(path, starts=True) if path.is_dir() else [open_episode(path)]:
            found.setdefault(source.path.resolve(), source)
    return list(found.values())


def refuse_episodes(path: Path) -> None:
    """A run among logged episodes would mix its files with theirs. Raises: ConfigError naming the first one."""
    for folder in (path, *path.glob("*/")):
        for episode in episodes_in(folder):
            if folder in (path, episode.path):
                first = episode.path.relative_to(path)
                raise ConfigError(f"run: found {path}, which holds episodes ({first}); choose another --run")


def episode_at(path: str | os.PathLike[str]) -> StoredEpisode | None:
    """The episode that this path names; None where it names none."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    there = episodes_in(folder, starts=True) if folder.is_dir() else []
    return next((episode for episode in there if episode.path == path), None)


def open_episode(path: str | os.PathLike[str]) -> StoredEpisode:
    """The episode that this path names. Raises: DataError where it names none."""
    episode = episode_at(path)
    if episode is None:
        found = "no episode" if Path(path).exists() else "no such file or folder"
        raise DataError(f"{path}: {found}; needed {layouts()}")
    return episode

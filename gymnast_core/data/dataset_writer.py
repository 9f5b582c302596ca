"""What a format needs to be written to by `gymnast data convert`: a writer of a whole data set.

Episodes are written one by one, in any order and by several processes, each whole or not at all. `finish` then makes
the data set of them. The writer holds nothing but a folder and settings: it is sent to worker processes, and made again
after a kill. Episodes that a killed process wrote are found again by `has`.

The folder is the converter's: hidden, beside the place of the data set. What shall be the data set goes into
`writer.whole`. The converter renames that folder to its place once `finish` has returned, and removes the rest.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from gymnast_core.data.outcome import Outcome
from gymnast_core.errors import DataError

if TYPE_CHECKING:
    from gymnast_core.data.episode import Episode
    from gymnast_core.data.formats import StoredEpisode

WHOLE, PIECES = "whole", "pieces"
RATES_DIFFER = 0.1


@dataclass(frozen=True)
class DatasetSettings:
    """What a data set of another format must be told, since no episode says it."""

    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Frames per second of a data set with one rate. None: the rate of the episodes' time stamps, which must agree."""
    frames: Literal["video", "pictures"] = "video"
    """How data sets keep frames: "video" (LeRobot) or JPEG (RLDS) is small and loses detail; "pictures" (PNG) lose
    nothing."""
    clip: bool = False
    """WorldGym: clip steps beyond 0.05 m and 0.25 rad and round the gripper, as its own data were made. Otherwise such
    an episode is refused."""
    robot: str = "widowx"
    """Name of the robot, where the format has a place for it."""


@dataclass(frozen=True)
class DatasetWriter(ABC):
    """Writes the episodes 0 to N - 1 into one data set.

    folder: of this conversion; it exists. Everything that is written lies below it.

    Its methods raise DataError, which names the file or the episode and what is wrong with it. An OSError, such as that
    of a full disk, is reported by the converter.
    """

    folder: Path
    settings: DatasetSettings = DatasetSettings()

    @property
    def whole(self) -> Path:
        """The folder that becomes the data set."""
        return self.folder / WHOLE

    @property
    def pieces(self) -> Path:
        """A place for parts that `finish` joins; it is removed in the end."""
        return self.folder / PIECES

    def prepare(self, sources: Iterable[StoredEpisode]) -> None:  # noqa: B027 - most formats need nothing here
        """Look at all episodes before the first is written: refuse what cannot stand in one data set, and write down in
        `folder` what `add` and `finish` need to know. It is called once, and not again after a kill."""

    @abstractmethod
    def has(self, number: int, name: str) -> bool:
        """Whether this episode is written already."""

    @abstractmethod
    def add(self, number: int, name: str, source: StoredEpisode) -> None:
        """Write one episode, whole or not at all; frames are read one at a time.

        name: where it lay below its folder, such as "a/b": unique within the data set, without suffix.
        """

    def finish(self, count: int) -> None:  # noqa: B027 - formats of one file or folder for each episode need no end
        """Make `whole` of the `count` episodes. It may be called again after a kill at any moment."""


@dataclass(frozen=True)
class EpisodeFiles(DatasetWriter):
    """The data set of a format that keeps each episode by itself, under the name that it had.

    write_one: writes one to a path that does not exist yet. suffix: of the file that names an episode, such as ".mp4"
    """

    write_one: Callable[[Path, StoredEpisode], object] = lambda path, source: None
    suffix: str = ""

    def has(self, number: int, name: str) -> bool:
        return os.path.lexists(self._place(name))

    def add(self, number: int, name: str, source: StoredEpisode) -> None:
        place = self._place(name)
        with written_whole(place, self.pieces / f"{number:06d}{self.suffix}") as temporary:
            self.write_one(temporary, source)

    def _place(self, name: str) -> Path:
        place = self.whole / name
        return place.with_name(place.name + self.suffix)


@contextmanager
def written_whole(place: Path, temporary: Path) -> Iterator[Path]:
    """Within the block a folder or file is written at `temporary`; then it is renamed to `place`."""
    _remove(temporary)  # of a run that was killed
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, place)
    except BaseException:
        _remove(temporary)
        raise


def to_be_copied(source: StoredEpisode) -> tuple[Episode, list[dict[str, Any]]]:
    """What a copy in another format keeps: the episode without its frames, and what was logged of each step.

    Outcomes are those of the best authority: a label beside the source is in its success, its metadata and its facts.
    An episode whose recording was cut short is copied up to there.

    Raises: DataError.
    """
    outcome = source.outcome()
    told = {"outcome_by": outcome.by} if outcome.by else {}
    episode = source.steps()
    copied = replace(episode, success=outcome.success, metadata={**episode.metadata, **told})
    return copied, _facts(source, outcome, episode.length)


def _facts(source: StoredEpisode, outcome: Outcome, length: int) -> list[dict[str, Any]]:
    """For each step, with whether the task was done after it by the best authority there is."""
    logged, done = source.facts(), outcome.frames[1:]
    found: list[dict[str, Any]] = []
    for step in range(length):
        fact = logged[step] if step < len(logged) else {}
        kept = {name: value for name, value in fact.items() if name != "success"}
        known = done[step] if step < len(done) else None
        found.append(kept if known is None else {**kept, "success": known})
    return found


def check_length(source: StoredEpisode, episode: Episode, frames: int) -> None:
    """Raises: DataError where an episode has not one frame more than steps."""
    if frames != episode.length + 1:
        raise DataError(f"{source.path}: found {frames} frames, needed {episode.length + 1}, one more than actions")


def common_rate(episodes: Sequence[tuple[StoredEpisode, np.ndarray]]) -> float:
    """The one rate of episodes, frames per second, by the middle of the times between their frames; a whole number from
    1. episodes: each with its stamps (T + 1,) in nanoseconds.

    Raises: DataError where stamps are missing, or rates differ by more than a tenth.
    """
    rates: list[tuple[StoredEpisode, float]] = []
    for source, stamps in episodes:
        gaps = np.diff(stamps)
        if (gaps <= 0).any():
            step = int(np.argmax(gaps <= 0))
            found = f"the time of frame {step + 1} is not after that of frame {step}"
            raise DataError(f"{source.path}: {found}; give the rate of all episodes with --fps")
        if len(gaps):
            rates.append((source, 1e9 / float(np.median(gaps))))
    if not rates:
        raise DataError("found no episode with two frames, whose times would say the rate; give it with --fps")
    slow, fast = (choose(rates, key=lambda item: item[1]) for choose in (min, max))
    if fast[1] > slow[1] * (1 + RATES_DIFFER):
        raise DataError(
            f"found {slow[1]:.3g} frames per second in {slow[0].path} and {fast[1]:.3g} in {fast[0].path}; needed one "
            "rate in a data set: convert them apart, or give a rate with --fps"
        )
    rate = float(np.median([rate for _, rate in rates]))
    if round(rate) < 1:
        raise DataError(f"found {rate:.3g} frames per second, needed at least 1; give a rate with --fps")
    return float(round(rate))


def _remove(path: Path) -> None:
    """A file or folder that may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

"""Where rollouts begin: start frames with instructions, from folders, episodes or a station's tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.films import film_frame
from gymnast_core.data.formats import StoredEpisode, episode_at, episodes_below, layouts
from gymnast_core.data.frames import read_image
from gymnast_core.data.sidecar import read_description
from gymnast_core.data.trial_pictures import SUFFIXES as PICTURES
from gymnast_core.data.trial_pictures import position_in
from gymnast_core.errors import DataError
from gymnast_core.files import user_path
from gymnast_core.policy.prompt import same_instruction
from gymnast_core.progress import console
from gymnast_core.protocols import Start
from gymnast_core.seeds import derive_seed

MAX_INSTRUCTION = 500


def check_instruction(instruction: str, name: str = "instruction") -> str:
    """The instruction without outer blanks.

    Raises: DataError when it is empty, longer than 500 characters, or holds control characters.
    """
    text = instruction.strip()
    if not text:
        raise DataError(f"{name}: found an empty text, needed what the robot should do, e.g. 'open the drawer'")
    if len(text) > MAX_INSTRUCTION:
        raise DataError(f"{name}: found {len(text)} characters, allowed are at most {MAX_INSTRUCTION}")
    if any(ord(character) < 32 for character in text):
        raise DataError(f"{name}: found a line break or control character, needed one line of text")
    return text


def read_starts(folder: str | Path, size: int | None = None) -> list[Start]:
    """Start frames below a folder, see `find_starts`. Raises: DataError when nothing in it is usable."""
    found = [start for _, start in find_starts(folder, size)]
    if not found:
        raise DataError(
            f'{folder}: no start frame below it; needed X.png with X.json {{"instruction": ...}}, or episodes'
        )
    return found


def find_starts(folder: str | Path, size: int | None = None) -> Iterator[tuple[StoredEpisode, Start]]:
    """The first frames of all episodes below a folder with what they are from, by format and path: logged episodes, and
    WorldGym's trials (`X.png` with `X.json`). Squashed to (size, size) where given.

    A broken one is left out with a warning that names it.

    Raises: DataError when the folder does not exist.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of start frames")
    number = 0
    for source in episodes_below(folder, starts=True):
        try:
            instruction = check_instruction(source.describe().instruction, f"{source.path}: instruction")
            frame, place = source.frame(0, size), source.position(0)
        except DataError as error:
            console.print(f"warning: left out: {error}", style="yellow", markup=False)
            continue
        yield source, Start(instruction, frame, seed=number, position=None if place is None else tuple(place))
        number += 1


def station_starts(station: StationConfig, tasks: Sequence[str], resets: int, seed: int) -> list[Start]:
    """`resets` different resets of each task (all tasks of the station when none is named)."""
    names = list(tasks) or sorted(station.tasks)
    if not names:
        raise DataError(f"station '{station.name}' has no task; add one under 'tasks'")
    return [
        Start(station.task(name).instruction, None, name, derive_seed(seed, "reset", name, number))
        for number in range(resets)
        for name in names
    ]


VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")


class StartFrame(NamedTuple):
    """A frame (H, W, 3) uint8, and where the end effector is in it (metres, base frame) where that was logged."""

    frame: np.ndarray
    position: Sequence[float] | None = None


def read_frames(sources: Sequence[str], index: int = 0) -> list[StartFrame]:
    """The frame of each source: `PATH`, or `PATH:INDEX` where the path itself holds no such file.

    Raises: DataError, see `read_frame`, and where there is no source.
    """
    if not sources:
        raise DataError("frame: found none, needed at least one image, video or episode folder")
    frames = []
    for source in sources:
        path, colon, last = source.rpartition(":")
        named = colon and re.fullmatch(r"-?\d+", last) and not user_path(source).exists()
        frames.append(read_frame(path, int(last)) if named else read_frame(source, index))
    return frames


def read_frame(source: str, index: int = 0) -> StartFrame:
    """A frame from an image file, a video and index, or a logged episode and step.

    Raises: DataError naming the file and what is wrong with it, or the range of indices there is.
    """
    path = user_path(source)
    if source.strip() and path.suffix.lower() in PICTURES and path.is_file():
        return StartFrame(read_image(path), _position_beside(path))
    episode = episode_at(path) if source.strip() else None
    if episode is not None:
        number = episode.number(index)
        return StartFrame(episode.frame(number), episode.position(number))
    if not source.strip() or not path.exists():
        raise DataError(f"frame '{source}': no such image, video or episode folder")
    if path.is_dir():
        raise DataError(f"{path}: no episode; needed an image, a video, or {layouts()}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return StartFrame(film_frame(path, index))
    return StartFrame(read_image(path), _position_beside(path))


def _position_beside(image: Path) -> list[float] | None:
    """The position in the X.json beside X.png; None where there is none. Raises: DataError for a damaged one."""
    description = image.with_suffix(".json")
    return position_in(read_description(description), description)


def logged_frames(
    folder: str | Path, instruction: str, count: int, seed: int, warn: Callable[[str], None] | None = None
) -> list[StartFrame]:
    """Up to `count` frames of logged episodes of an instruction, from any step at which the task was not done yet.

    Episodes are taken in turn, each at a step drawn by the seed, with the arm's position where it was logged. An
    episode of which nobody knows when it was done gives its first half alone. What cannot be read is left out and told
    to `warn`.

    Raises: DataError when the folder does not exist, or holds no episode of this instruction.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of logged episodes")
    generator = np.random.default_rng(derive_seed(seed, "logged frames"))
    found: list[StartFrame] = []
    episodes = episodes_below(folder)
    for place in generator.permutation(len(episodes)).tolist():
        if len(found) >= count:
            break
        source, draw = episodes[place], float(generator.random())
        try:
            if not same_instruction(source.describe().instruction, instruction):
                continue
            number = int(draw * _steps_before_success(source))
            found.append(StartFrame(source.frame(number), source.position(number)))
        except DataError as error:
            if warn is not None:
                warn(f"left out: {error}")
    if not found:
        raise DataError(f"{folder}: no episode of '{instruction}' below it; needed one to begin practice in")
    return found


def _steps_before_success(source: StoredEpisode) -> int:
    """How many of an episode's frames, from the first one, certainly show a task that is not done; at least 1."""
    frames = source.outcome().frames
    if any(frames):
        return max(1, frames.index(True))
    if frames and all(done is not None for done in frames[1:]):
        return len(frames)
    return max(1, source.count() // 2)

"""A station's episodes, divided by their resets: those that teach, and those that measure.

Base and adapter run from the same resets in canary trials, so an episode goes where the others of its reset go. Which
side that is depends on a hash of the reset alone, and a later round keeps to what an earlier one decided: an episode
that taught once never measures, and one that measured once never teaches.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gymnast_core.data.episode import write_episode
from gymnast_core.data.formats import data_path, find_all, open_episode
from gymnast_core.errors import DataError
from gymnast_core.progress import say
from gymnast_core.seeds import derive_seed

Side = Literal["teach", "measure"]
TEACH: Side = "teach"
MEASURE: Side = "measure"


@dataclass(frozen=True)
class Divided:
    """Folders of links to the episodes of either side, and how many lie there. successes: of those that teach. sides:
    of every reset that was ever divided."""

    teach: Path
    measure: Path
    teaching: int
    measuring: int
    successes: int
    sides: Mapping[str, Side] = field(default_factory=dict)


@dataclass(frozen=True)
class Division:
    """What a later round keeps to. held_out: share of the resets that measure. sides: by reset."""

    held_out: float
    sides: dict[str, Side] = field(default_factory=dict)


NUMBERED = re.compile(r"^\d{5}_")
"""What `link_episode` puts before a name: no part of the episode's own, by which it is known in every round."""
Resets = dict[str, list[tuple[Path, bool]]]
"""Episodes by their resets, each with whether it succeeded."""


def find_resets(sources: Sequence[str], apart: Sequence[str] = ()) -> Resets:
    """Every episode below `sources` whose outcome is known, in any format, but for those below `apart`, which measure.

    Episodes without the seed of a reset, or with seed 0 as where a person begins them, have each a reset of their own.

    Raises: DataError where fewer than two resets have an episode, since one has to teach and one to measure.
    """
    groups: Resets = {}
    left_out = [data_path(folder).resolve() for folder in apart]
    seen: set[Path] = set()
    for source in dict.fromkeys(sources):
        for episode in find_all(source):
            try:
                success, about = episode.outcome().success, episode.describe().metadata
            except DataError as error:
                say(f"warning: left out: {error}", "yellow")
                continue
            path = episode.path.resolve()
            if success is None or path in seen or any(path.is_relative_to(folder) for folder in left_out):
                continue
            seen.add(path)
            seed = about.get("seed")
            reset = f"{about.get('task', '')}/{seed}" if seed else NUMBERED.sub("", path.name)
            groups.setdefault(reset, []).append((path, success))
    if len(groups) < 2:
        raise DataError(
            f"{', '.join(sources)}: found episodes with an outcome of {len(groups)} resets; needed 2, one to learn "
            "from and one to measure on"
        )
    return groups


def divide(groups: Resets, held_out: float, folder: Path, earlier: Mapping[str, Side] | None = None) -> Divided:
    """Link episodes into `folder`, by the side on which they are. held_out: share of the resets that measure. earlier:
    the sides of resets in earlier rounds, which they keep.

    Raises: DataError where all resets lie on one side since earlier rounds.
    """
    earlier = earlier or {}
    known = {reset: earlier[reset] for reset in groups if reset in earlier}
    measuring = held_out_resets(list(groups), held_out, known)
    if not 0 < len(measuring) < len(groups):
        missing = "to learn from" if measuring else "to measure on"
        raise DataError(
            f"{folder}: all {len(groups)} resets are of one side since earlier rounds; needed one {missing}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    counts = dict.fromkeys((TEACH, MEASURE), 0)
    successes = 0
    for reset, members in groups.items():
        side = MEASURE if reset in measuring else TEACH
        (folder / side).mkdir(parents=True, exist_ok=True)
        for path, success in members:
            link_episode(path, folder / side, counts[side])
            counts[side] += 1
            successes += success and side == TEACH
    sides = {**earlier, **{reset: MEASURE if reset in measuring else TEACH for reset in groups}}
    return Divided(folder / TEACH, folder / MEASURE, counts[TEACH], counts[MEASURE], successes, sides)


def link_episode(path: Path, folder: Path, number: int) -> None:
    """Link an episode into a folder that is there, under a name that begins with a number. One that has no file of its
    own, as in a data set of many, is copied as our own format.

    Raises: DataError where there is no such episode any more.
    """
    # An episode in files, such as a film and its actions, has files of one stem.
    parts = [path] if path.is_dir() else list(path.parent.glob(f"{glob.escape(path.stem)}.*")) if path.is_file() else []
    if not parts:
        write_episode(folder / f"{number:05d}_{path.name}", open_episode(path).read())
    for part in parts:
        (folder / f"{number:05d}_{part.name}").symlink_to(part, target_is_directory=part.is_dir())


def held_out_resets(resets: Sequence[str], share: float, known: Mapping[str, Side] | None = None) -> frozenset[str]:
    """Those whose episodes measure: what is known, and by a hash of their own. Where all new ones fell on one side and
    none of the other is known, one changes sides."""
    known = known or {}
    place = {reset: derive_seed("held out", reset) / 2**63 for reset in resets if reset not in known}
    ordered = sorted(place, key=place.__getitem__)
    held = [reset for reset in ordered if place[reset] < share]
    if not held and MEASURE not in known.values():
        held = ordered[:1]
    if len(held) == len(ordered) and TEACH not in known.values():
        held = held[:-1]
    return frozenset(held) | {reset for reset, side in known.items() if side == MEASURE}


def link_model(model: Path, target: Path) -> Path:
    """The same world model in another place, without a copy of its weights where the disk allows it, so that what is
    measured of it there is not taken for its own. Returns its path."""
    if model.is_file():
        target.mkdir(parents=True, exist_ok=True)
        _link(str(model), str(target / model.name))
        return target / model.name
    shutil.copytree(model, target, copy_function=_link, dirs_exist_ok=True)
    return target


def _link(source: str, target: str) -> str:
    """A second name of a file, or a copy of it on another file system; figures are not taken along."""
    if Path(source).name.endswith("gate.json"):
        return target
    Path(target).unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
    return target

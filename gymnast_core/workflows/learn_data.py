"""A station's episodes, divided by their resets: those that teach, and those that measure.

Base and adapter run from the same resets in canary trials, so an episode goes where the others of its reset go. Which
side that is depends on the reset alone: an episode that taught in an earlier round does not measure in a later one
(but for the one reset that changes sides where all of them fell on one).
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.data.formats import data_path, find_all
from gymnast_core.errors import DataError
from gymnast_core.progress import say
from gymnast_core.seeds import derive_seed

TEACH, MEASURE = "teach", "measure"


@dataclass(frozen=True)
class Divided:
    """Folders of links to the episodes of either side, and how many lie there. successes: of those that teach."""

    teach: Path
    measure: Path
    teaching: int
    measuring: int
    successes: int


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
            reset = f"{about.get('task', '')}/{seed}" if seed else episode.path.name
            groups.setdefault(reset, []).append((path, success))
    if len(groups) < 2:
        raise DataError(
            f"{', '.join(sources)}: found episodes with an outcome of {len(groups)} resets; needed 2, one to learn "
            "from and one to measure on"
        )
    return groups


def divide(groups: Resets, held_out: float, folder: Path) -> Divided:
    """Link episodes into `folder`, by the side on which they are. held_out: share of the resets that measure."""
    measuring = held_out_resets(list(groups), held_out)
    shutil.rmtree(folder, ignore_errors=True)
    counts = dict.fromkeys((TEACH, MEASURE), 0)
    successes = 0
    for reset, members in groups.items():
        side = MEASURE if reset in measuring else TEACH
        (folder / side).mkdir(parents=True, exist_ok=True)
        for path, success in members:
            # An episode in files, such as a film and its actions, has files of one stem.
            parts = [path] if path.is_dir() else path.parent.glob(f"{glob.escape(path.stem)}.*")
            for part in parts:
                (folder / side / f"{counts[side]:05d}_{part.name}").symlink_to(part, target_is_directory=part.is_dir())
            counts[side] += 1
            successes += success and side == TEACH
    return Divided(folder / TEACH, folder / MEASURE, counts[TEACH], counts[MEASURE], successes)


def held_out_resets(resets: Sequence[str], share: float) -> frozenset[str]:
    """Those whose episodes measure, at least one and not all. The same whatever others there are, but for these two."""
    place = {reset: derive_seed("held out", reset) / 2**63 for reset in resets}
    ordered = sorted(resets, key=place.__getitem__)
    held = [reset for reset in ordered if place[reset] < share]
    return frozenset((held or ordered[:1])[: len(ordered) - 1])


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

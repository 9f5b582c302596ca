"""The station's other tasks, which practice of one must not cost: their start frames, and how far they fell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.formats import episodes_below
from gymnast_core.errors import DataError
from gymnast_core.estimates import paired_difference
from gymnast_core.files import finite_or_none, user_path
from gymnast_core.policy.prompt import same_instruction
from gymnast_core.protocols import Start
from gymnast_core.rl.adapt_result import OtherTask
from gymnast_core.rl.consolidation import Views
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.rollout.starts import read_starts

PER_TASK = 4
"""Start frames of each other task that are taken from a station's logs, at most: the latest."""
EPISODES, PICTURES = 16, 40
"""Whole episodes of each other task, and pictures of each of them, that the end of practice looks at, at most."""


def compare_others(before: Sequence[Rollout], after: Sequence[Rollout]) -> tuple[OtherTask, ...]:
    """Rollouts of other tasks with the same starts and seeds, before and after, task by task."""
    names = dict.fromkeys(rollout.start.instruction for rollout in before)
    return tuple(_compare(name, before, after) for name in names)


def find_other_starts(
    station: StationConfig, instruction: str, source: str, logs: str | Path, size: int
) -> tuple[list[Start], str]:
    """Start frames of the station's other tasks, squashed to (size, size), and a line that says where they are from.

    source: a folder of start frames, "auto" (the station's logged episodes below `logs`) or "off".

    Raises: DataError for a folder that is missing or holds no start frame of another task.
    """
    if source == "off":
        return [], "note: no other task is rehearsed (rehearsal: off); practice may cost them"
    if source != "auto":
        starts = [start for start in read_starts(source, size) if not same_instruction(start.instruction, instruction)]
        if not starts:
            raise DataError(f"{source}: rehearsal: found start frames of '{instruction}' alone; needed another task's")
        return starts, f"rehearsing {len(starts)} start frames of other tasks, from {source}"
    wanted = [
        task.instruction for task in station.tasks.values() if not same_instruction(task.instruction, instruction)
    ]
    starts = _logged(user_path(logs), wanted, size)
    if not wanted:
        return [], ""
    missing = [words for words in wanted if not any(same_instruction(start.instruction, words) for start in starts)]
    if missing:
        named = ", ".join(f"'{words}'" for words in missing)
        note = (
            f"note: no start frame of {named} to rehearse; practice may cost it. Log an episode of it, or name a folder"
        )
        return starts, f"{note} (--rehearsal)"
    return starts, f"rehearsing {len(starts)} start frames of other tasks, from episodes below {logs}"


def find_other_views(
    station: StationConfig, instruction: str, source: str, logs: str | Path, size: int
) -> Views | None:
    """Pictures of whole episodes of the station's other tasks, (size, size): the latest `EPISODES` of each, from the
    folder `source` where it names one and holds some, else from the logs; None where there are none."""
    wanted = [
        task.instruction for task in station.tasks.values() if not same_instruction(task.instruction, instruction)
    ]
    folders = [user_path(logs)] if source == "auto" else [] if source == "off" else [Path(source), user_path(logs)]
    for folder in folders:
        if found := _whole_episodes(folder, wanted, size):
            return Views(np.concatenate([frames for frames, _ in found]), tuple(w for _, words in found for w in words))
    return None


def _whole_episodes(folder: Path, wanted: Sequence[str], size: int) -> list[tuple[np.ndarray, list[str]]]:
    """Frames that an action followed, with the instruction, of the latest episodes of each of these instructions."""
    found: dict[str, list[tuple[np.ndarray, list[str]]]] = {words: [] for words in wanted}
    if not folder.is_dir() or not wanted:
        return []
    for source in sorted(episodes_below(folder), key=lambda one: one.path.name, reverse=True):
        try:
            own, length = source.describe().instruction, source.count() - 1
            words = next((words for words in wanted if same_instruction(own, words)), None)
            if words is None or length < 1 or len(found[words]) >= EPISODES:
                continue
            chosen = np.unique(np.linspace(0, length - 1, min(length, PICTURES)).round().astype(int))
            frames = np.stack([source.frame(int(index), size) for index in chosen])
            found[words].append((frames, [words] * len(frames)))
        except DataError:
            continue
    return [one for episodes in found.values() for one in episodes]


def _logged(folder: Path, wanted: Sequence[str], size: int) -> list[Start]:
    """First frames of the latest logged episodes of these instructions, at most `PER_TASK` of each."""
    if not folder.is_dir() or not wanted:
        return []
    found: dict[str, list[Start]] = {words: [] for words in wanted}
    for source in sorted(episodes_below(folder), key=lambda one: one.path.name, reverse=True):
        try:
            own = source.describe().instruction
            words = next((words for words in wanted if same_instruction(own, words)), None)
            if words is None or len(found[words]) >= PER_TASK:
                continue
            position = source.position(0)
            found[words].append(Start(words, source.frame(0, size), position=position))
        except DataError:
            continue
    return [start for starts in found.values() for start in starts]


def _compare(instruction: str, before: Sequence[Rollout], after: Sequence[Rollout]) -> OtherTask:
    pairs = [
        (first.completed, second.completed)
        for first, second in zip(before, after, strict=True)
        if first.start.instruction == instruction
    ]
    first, second = np.array(pairs).T
    found = paired_difference(first, second)
    judged = np.isfinite(first) & np.isfinite(second)
    means = (float(first[judged].mean()), float(second[judged].mean())) if judged.any() else (np.nan, np.nan)
    return OtherTask(
        instruction,
        finite_or_none(means[0]),
        finite_or_none(means[1]),
        finite_or_none(found.mean),
        finite_or_none(found.standard_error),
        found.n,
    )

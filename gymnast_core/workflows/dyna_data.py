"""The episodes of a round: the latest whole ones of each task, and why the others were left out.

Whether an episode is whole says `gymnast data check`: one with an error is left out, one with a warning is not. What
was found stays in findings.jsonl, by the episode's files, so that no episode is looked at twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.data.formats import StoredEpisode, episodes_below
from gymnast_core.data.gymnast_episodes import GymnastEpisode
from gymnast_core.data.recover import recordings_below
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.check_episode import check_episode
from gymnast_core.evaluation.check_files import is_recorded_now
from gymnast_core.evaluation.logbook import entry_of
from gymnast_core.files import append_line, read_json_lines, user_path
from gymnast_core.workflows.learn_data import link_episode

FINDINGS = "findings.jsonl"


@dataclass(frozen=True)
class LeftOut:
    """An episode that is not used, and why."""

    episode: str
    why: str


@dataclass(frozen=True)
class Gathered:
    """The episodes of a round. chosen: paths, of each task the earliest first. new: those that no earlier round had.
    left_out: broken ones, and those whose outcome is not known. older: by instruction, how many whole ones were not
    chosen as they are older than the latest `trajectories`."""

    chosen: tuple[str, ...]
    new: int
    left_out: tuple[LeftOut, ...] = ()
    older: dict[str, int] | None = None

    @property
    def words(self) -> str:
        """For people, in one line."""
        older = sum((self.older or {}).values())
        return (
            f"{len(self.chosen)} episodes ({self.new} new), {len(self.left_out)} left out, {older} older ones not used"
        )


class Filter:
    """Looks at logged episodes. folder: of the run, where findings are kept. tick: told what is being done, in words;
    what it raises ends the work, which can be resumed."""

    def __init__(self, folder: Path, tick: Callable[[str], None]) -> None:
        self._file, self._tick = folder / FINDINGS, tick
        self._known: dict[str, list[str]] = {}
        for line in read_json_lines(self._file):
            if isinstance(line.get("errors"), list):
                self._known[str(line.get("stamp"))] = [str(error) for error in line["errors"]]

    def gather(self, folders: Sequence[str], trajectories: int, earlier: Sequence[Sequence[str]]) -> Gathered:
        """The episodes below the folders. earlier: those that were chosen in earlier rounds.

        Raises: ConfigError where a folder is not there.
        """
        whole: dict[str, list[tuple[str, str]]] = {}
        left_out = []
        sources = episodes_of_logs(folders)
        for number, source in enumerate(sources):
            self._tick(f"checking episode {number + 1} of {len(sources)}")
            path = str(source.path.resolve())
            try:
                if why := self._why_not(source):
                    left_out.append(LeftOut(path, why))
                    continue
                entry = entry_of(source)
            except DataError as error:
                left_out.append(LeftOut(path, " ".join(str(error).split())))
                continue
            whole.setdefault(entry.instruction, []).append((entry.began, path))
        latest = {
            task: [path for _, path in sorted(members)[-trajectories:]] for task, members in sorted(whole.items())
        }
        chosen = tuple(path for paths in latest.values() for path in paths)
        older = {task: len(whole[task]) - len(paths) for task, paths in latest.items() if len(whole[task]) > len(paths)}
        seen = {path for paths in earlier for path in paths}
        return Gathered(chosen, len(set(chosen) - seen), tuple(left_out), older)

    def _why_not(self, source: StoredEpisode) -> str:
        """Why an episode is not used; empty where it is. Raises: DataError."""
        if is_recorded_now(source.path):
            return "it is being recorded"
        if errors := self._errors(source):
            return "; ".join(errors)
        if source.outcome().success is None:
            return "its outcome is not known; `gymnast data label` says it"
        return ""

    def _errors(self, source: StoredEpisode) -> list[str]:
        stamp = source.stamp()
        if stamp not in self._known:
            found = [one for one in check_episode(source) if one.severity == "error"]
            errors = [f"{one.code}: {one.found}{f' at {one.place}' if one.place else ''}" for one in found]
            self._known[stamp] = errors
            append_line(self._file, json.dumps({"stamp": stamp, "errors": errors}))
        return self._known[stamp]


def episodes_of_logs(folders: Sequence[str]) -> list[StoredEpisode]:
    """Every episode below the folders, each once. Raises: ConfigError where a folder is not there."""
    found: dict[Path, StoredEpisode] = {}
    for folder in folders:
        path = user_path(folder, "logs")
        if not path.is_dir():
            raise ConfigError(f"logs: found '{folder}', needed an existing folder of episodes")
        for source in episodes_below(path):
            found.setdefault(source.path.resolve(), source)
        for recording in recordings_below(path):  # also those that lost their header
            found.setdefault(recording.resolve(), GymnastEpisode(recording))
    return list(found.values())


def link_episodes(paths: Sequence[str], folder: Path) -> Path:
    """A folder of links to these episodes, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        link_episode(Path(path), folder, number)
    return folder

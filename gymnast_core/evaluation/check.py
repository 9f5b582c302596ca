"""`gymnast data check`: broken episodes found, named, mended where that is possible, and shown on a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gymnast_core.config import dump_config
from gymnast_core.data.formats import StoredEpisode, episodes_of, layouts, refuse_episodes
from gymnast_core.data.gymnast_episodes import GymnastEpisode
from gymnast_core.data.recover import recordings_below
from gymnast_core.errors import DataError
from gymnast_core.evaluation.check_config import CheckConfig
from gymnast_core.evaluation.check_episode import check_episode
from gymnast_core.evaluation.check_files import is_recorded_now, is_recording
from gymnast_core.evaluation.check_page import write_check_page
from gymnast_core.evaluation.check_result import CheckResult, Mended
from gymnast_core.evaluation.findings import Finding
from gymnast_core.evaluation.mend import mend_episode
from gymnast_core.files import user_path, write_bytes
from gymnast_core.progress import Stopped, interruptible, progress_bar, say
from gymnast_core.results import write_result


@dataclass
class _Check:
    """One run over the episodes."""

    mend: bool
    planned: int
    checked: int = 0
    clean: int = 0
    findings: list[Finding] = field(default_factory=list)
    mended: list[Mended] = field(default_factory=list)
    recording: list[str] = field(default_factory=list)

    def take(self, source: StoredEpisode) -> None:
        """Check one episode and mend it where that was asked for. Raises: Stopped."""
        if is_recorded_now(source.path):
            self.recording.append(str(source.path))
            return
        found = check_episode(source)
        if self.mend and is_recording(source.path) and any(finding.mendable for finding in found):
            codes = tuple(dict.fromkeys(finding.code for finding in found))
            try:
                self.mended.append(Mended(str(source.path), codes, mend_episode(source.path)))
            except DataError as error:
                say(f"warning: {error}", "yellow")
            source = GymnastEpisode(source.path)  # the old one remembers its count
            found = check_episode(source) if _is_left(source.path) else ()
        self.checked += 1
        self.clean += not found
        self.findings += found

    def result(self) -> CheckResult:
        """Errors first, in the order of the episodes."""
        ordered = sorted(self.findings, key=lambda finding: finding.severity != "error")
        return CheckResult(
            self.planned, self.checked, self.clean, tuple(ordered), tuple(self.mended), tuple(self.recording)
        )


def _is_left(folder: Path) -> bool:
    """Whether mending left an episode: one without a single readable picture was set aside."""
    return bool(recordings_below(folder))


def check(config: CheckConfig) -> int:
    """Check every episode; 0: nothing was found, 1: something was, 130: interrupted, with a report of what was checked.

    Raises: DataError where there is no episode or the report cannot be written, ConfigError for a wrong run folder.
    """
    sources = _sources(config.data)
    run = Path(config.run or f"runs/data_check/{datetime.now():%Y%m%d_%H%M%S}")
    refuse_episodes(run)
    checked = _Check(config.mend, len(sources))
    with interruptible() as stop, progress_bar() as bar:
        write_bytes(run / "config.yaml", dump_config(config).encode())
        row = bar.add_task("checking", total=len(sources), note="")
        for source in sources:
            try:
                checked.take(source)
            except Stopped:
                break
            bar.update(row, advance=1, note=f"{len(checked.findings)} findings")
            if stop:
                break
    result = checked.result()
    write_result(run, result)
    page = write_check_page(run, result)
    print(json.dumps(dataclasses.asdict(result)) if config.json else "\n".join(_lines(result)))
    say(f"report: {page}")
    if result.interrupted:
        return 130
    return int(bool(result.findings))


def _lines(result: CheckResult) -> list[str]:
    mended = [f"{one.episode}: mended ({', '.join(one.codes)}): {one.told}" for one in result.mended]
    return [*map(str, result.findings), *mended, result.words]


def _sources(paths: Sequence[str]) -> list[StoredEpisode]:
    """Every episode, recordings that lost their header included. Raises: DataError where there is none."""
    found = {source.path.resolve(): source for source in episodes_of(paths)}
    for path in map(user_path, paths):
        for folder in recordings_below(path) if path.is_dir() else ():
            found.setdefault(folder.resolve(), GymnastEpisode(folder))
    if not found:
        raise DataError(f"{', '.join(paths)}: no episode below it; needed {layouts()}")
    return list(found.values())

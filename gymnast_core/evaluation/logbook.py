"""What a log folder holds, an entry for each episode, and the filters by which one looks through it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from gymnast_core.contents import one_line
from gymnast_core.data.episode import HEADER_FILE, read_header
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.labels import BY_PERSON
from gymnast_core.data.outcome import FAILURE, OUTCOMES, SUCCESS, UNJUDGED, Outcome, ended_early
from gymnast_core.errors import DataError
from gymnast_core.evaluation.logbook_config import ListEpisodesConfig

EPOCH_NS = 10**18
"""Stamps before the year 2001 count from the beginning of a simulation."""
LATEST_NS = 4 * 10**18


@dataclass(frozen=True)
class LogEntry:
    """One episode. path: what names it. began: local time, ISO 8601, of its first frame, or of its file where the log
    holds no time. outcome: a name of `OUTCOMES`. by: who said so: "person", "station", a judge's name, empty where
    nobody did. steps, seconds: its length; None where that is not known. complete: False where it was cut short.
    """

    path: str
    began: str
    task: str
    instruction: str
    policy: str
    outcome: str
    by: str
    steps: int | None
    seconds: float | None
    complete: bool

    @property
    def day(self) -> str:
        """YYYY-MM-DD."""
        return self.began[:10]

    def matches(self, options: ListEpisodesConfig) -> bool:
        """Whether it passes every filter."""
        return (
            (_matches(options.task, self.task) or _matches(options.task, self.instruction))
            and _matches(options.policy, self.policy)
            and options.outcome in ("", self.outcome)
            and self.day.startswith(options.day)
        )


def entry_of(source: StoredEpisode) -> LogEntry:
    """Its entry. No frame is decoded. Raises: DataError where it cannot be read."""
    about, episode, outcome = source.describe(), source.bridge_steps(), source.outcome()
    facts = about.metadata
    steps = source.count() - 1 if episode is None else episode.length
    stamps = None if episode is None or not steps else episode.stamps
    started = facts.get("started_ns")
    first = 0 if stamps is None else int(stamps[0])
    if isinstance(started, int):
        first = started
    return LogEntry(
        str(source.path),
        _began(source, first),
        one_line(str(facts.get("task") or "")),
        one_line(about.instruction),
        one_line(str(facts.get("policy") or "")),
        _name(outcome, facts.get("outcome")),
        one_line(outcome.by),
        steps,
        None if stamps is None else round(float(stamps[-1] - stamps[0]) / 1e9, 3),
        _is_complete(source),
    )


def entries_of(sources: Sequence[StoredEpisode]) -> tuple[list[LogEntry], list[str]]:
    """Entries, the oldest first, and why others cannot be read."""
    entries, problems = [], []
    for source in sources:
        try:
            entries.append(entry_of(source))
        except DataError as error:
            problems.append(" ".join(str(error).split()))
    return sorted(entries, key=lambda entry: (entry.began, entry.path)), problems


def facts_of(source: StoredEpisode, entry: LogEntry | None) -> tuple[tuple[str, str], ...]:
    """Name and value of what is known, for people."""
    if entry is None:
        return (("path", str(source.path)),)
    outcome = f"{entry.outcome} (by {entry.by})" if entry.by else entry.outcome
    length = f"{entry.steps} steps" if entry.seconds is None else f"{entry.steps} steps, {entry.seconds:.1f} s"
    facts = [
        ("path", entry.path),
        ("instruction", entry.instruction or "none"),
        ("task", entry.task),
        ("policy", entry.policy),
        ("outcome", outcome),
        ("length", length if entry.complete else f"{length}, cut short"),
        ("began", entry.began),
    ]
    own = {"task", "policy", "outcome", "outcome_by"}
    short = [(name, value) for name, value in source.describe().metadata.items() if name not in own]
    facts += [(name, str(value)[:120]) for name, value in short if isinstance(value, (str, int, float, bool))]
    return tuple((name, value) for name, value in facts if value)


def _began(source: StoredEpisode, first_ns: int) -> str:
    if not EPOCH_NS <= first_ns < LATEST_NS:
        try:
            first_ns = os.stat(source.files()[0]).st_mtime_ns
        except OSError as error:
            raise DataError(f"{source.path}: cannot read: {error.strerror or error}") from error
    return datetime.fromtimestamp(first_ns / 1e9).astimezone().isoformat(timespec="seconds")


def _name(outcome: Outcome, logged: object) -> str:
    """A person's word, the end of an episode that did not come to its end, then what station or judge say."""
    if outcome.success is None or (ended_early(logged) and outcome.by != BY_PERSON):
        return str(logged) if ended_early(logged) else OUTCOMES[UNJUDGED]
    return OUTCOMES[SUCCESS if outcome.success else FAILURE]


def _is_complete(source: StoredEpisode) -> bool:
    if not (source.path / HEADER_FILE).is_file():
        return True
    return read_header(source.path).get("status") == "complete"


def _matches(pattern: str, text: str) -> bool:
    return not pattern or fnmatchcase(text.lower(), pattern.lower())

"""`gymnast data list` and `gymnast data show`: look through logged episodes, and at one of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gymnast_core.commands import gymnast, name_next
from gymnast_core.data.formats import StoredEpisode, episodes_of, layouts, open_episode, refuse_episodes
from gymnast_core.errors import DataError
from gymnast_core.evaluation.check_episode import check_episode
from gymnast_core.evaluation.findings import Finding
from gymnast_core.evaluation.logbook import LogEntry, entries_of, entry_of, facts_of
from gymnast_core.evaluation.logbook_config import ListEpisodesConfig, ShowEpisodeConfig
from gymnast_core.evaluation.show_page import write_show_page
from gymnast_core.files import user_path
from gymnast_core.progress import interrupts, say
from gymnast_core.reporting.tables import columns

SHOWN_PROBLEMS = 5


def list_episodes(config: ListEpisodesConfig) -> int:
    """Print the entries that pass the filters. Raises: DataError where the folders hold no episode at all."""
    sources = episodes_of(config.data)
    if not sources:
        raise DataError(f"{', '.join(config.data)}: no episode below it; needed {layouts()}")
    with interrupts():
        entries, problems = entries_of(sources)
    chosen = [entry for entry in entries if entry.matches(config)]
    if config.json:
        print(json.dumps({"episodes": [dataclasses.asdict(entry) for entry in chosen], "unreadable": problems}))
    elif chosen:
        print(columns((HEAD, *map(_row, chosen))))
    for problem in problems[:SHOWN_PROBLEMS]:
        say(f"warning: left out: {problem}", "yellow")
    say(f"{len(chosen)} of {len(sources)} episodes" + (f", {len(problems)} cannot be read" if problems else ""))
    if problems:
        name_next(gymnast("data check", data=config.data))
    return 0


HEAD = ("began", "task", "policy", "outcome", "by", "steps", "seconds", "path")


def _row(entry: LogEntry) -> tuple[str, ...]:
    outcome = entry.outcome if entry.complete else f"{entry.outcome}, cut short"
    seconds = "" if entry.seconds is None else f"{entry.seconds:.1f}"
    return (
        entry.began[:16].replace("T", " "),
        entry.task or entry.instruction,
        entry.policy,
        outcome,
        entry.by,
        "" if entry.steps is None else str(entry.steps),
        seconds,
        entry.path,
    )


def show_episode(config: ShowEpisodeConfig) -> int:
    """Print what is known of an episode and write its page; 1 where a check finds something.

    Raises: DataError where there is no episode, or nothing of it can be read.
    """
    source = open_episode(user_path(config.episode))
    run = Path(config.run or f"runs/data_show/{datetime.now():%Y%m%d_%H%M%S}")
    refuse_episodes(run)
    with interrupts():
        entry = _entry(source)
        findings = check_episode(source)
        page = write_show_page(run, source, entry, findings)
    if config.json:
        print(json.dumps(_content(source, entry, findings)))
    else:
        print(columns(facts_of(source, entry)))
        print("\n".join(map(str, findings)) or "nothing found by `gymnast data check`")
    say(f"report: {page}")
    return int(bool(findings))


def _entry(source: StoredEpisode) -> LogEntry | None:
    """None where the episode is too damaged to say this of it; the findings say why."""
    try:
        return entry_of(source)
    except DataError:
        return None


def _content(source: StoredEpisode, entry: LogEntry | None, findings: Sequence[Finding]) -> dict[str, object]:
    known = {} if entry is None else {**dataclasses.asdict(entry), "metadata": dict(source.describe().metadata)}
    return {"path": str(source.path), **known, "findings": [dataclasses.asdict(finding) for finding in findings]}

"""`gymnast runs`: what happened below a folder, filtered and sorted. `gymnast runs compare`: several side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from gymnast_core.commands import gymnast, name_next
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.run_compare import compare_folders
from gymnast_core.evaluation.run_index import RunEntry, entries_below, entry_at
from gymnast_core.evaluation.runs_config import CompareAnyRunsConfig, ListRunsConfig
from gymnast_core.files import user_path
from gymnast_core.progress import interrupts, say
from gymnast_core.reporting.tables import columns

HEAD = ("began", "kind", "outcome", "success", "task", "policy", "path")


def list_runs(config: ListRunsConfig) -> int:
    """Print the entries that pass the filters. Raises: DataError where there is no such folder."""
    root = user_path(config.folder)
    with interrupts():
        entries = entries_below(root)
    chosen = ordered([entry for entry in entries if matches(entry, config)], config)
    if config.json:
        print(json.dumps({"folder": str(root.resolve()), "runs": [dataclasses.asdict(entry) for entry in chosen]}))
    elif chosen:
        print(columns((HEAD, *map(_row, chosen))))
    for entry in [entry for entry in chosen if entry.problem][:5]:
        say(f"warning: {entry.path}: {entry.problem}", "yellow")
    say(f"{len(chosen)} of {len(entries)} runs and episodes")
    if len(chosen) > 1:
        name_next(gymnast("runs compare", *[root / entry.path for entry in chosen[:2]]))
    return 0


def matches(entry: RunEntry, config: ListRunsConfig) -> bool:
    """Whether an entry passes every filter."""
    return (
        config.kind in ("", entry.kind)
        and _fits(config.task, entry.task)
        and _fits(config.policy, entry.policy)
        and _fits(config.outcome, entry.outcome)
        and entry.began.startswith(config.day)
    )


def ordered(entries: Sequence[RunEntry], config: ListRunsConfig) -> list[RunEntry]:
    """As the options sort them; of equals the latest first."""
    found = sorted(entries, key=lambda entry: entry.began, reverse=True)
    if config.sort == "success":
        found.sort(key=lambda entry: -1.0 if entry.success is None else entry.success, reverse=True)
    elif config.sort != "began":
        found.sort(key=lambda entry: str(getattr(entry, config.sort)))
    if config.failures:
        found.sort(key=lambda entry: not entry.failed)
    return found


def compare_runs(config: CompareAnyRunsConfig) -> int:
    """Write the page. Raises: ConfigError for one named twice; DataError for one that is neither run nor episode."""
    folders = [user_path(run).resolve() for run in config.runs]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"runs: found {config.runs[0]!r} twice or more; name each once")
    entries = [entry_at(folder) for folder in folders]
    out = Path(config.out or f"runs/compare/{datetime.now():%Y%m%d_%H%M%S}")
    with interrupts():
        say(f"report: {compare_folders(out, folders, entries)}")
    return 0


def _fits(pattern: str, text: str) -> bool:
    return not pattern or fnmatchcase(text.lower(), pattern.lower())


def _row(entry: RunEntry) -> tuple[str, ...]:
    success = "" if entry.success is None else f"{entry.success:.2f}"
    outcome = "unreadable" if entry.problem else entry.outcome
    return entry.began[:16].replace("T", " "), entry.kind, outcome, success, entry.task, entry.policy[:40], entry.path

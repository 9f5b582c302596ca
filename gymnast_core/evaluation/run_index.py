"""What happened below a folder: every run and every logged episode, an entry for each.

A run is told by what it leaves behind (`run_folder`, a set of trials, a practice over ROS), whatever its folder is
called. Runs of somebody else are read as carefully as one's own: no file is trusted, and one that cannot be read costs
its entry alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gymnast_core.contents import one_line
from gymnast_core.data.episode import FRAMES_FOLDER, HEADER_FILE
from gymnast_core.data.formats import open_episode
from gymnast_core.errors import DataError, GymnastError
from gymnast_core.estimates import success_rate
from gymnast_core.evaluation.logbook import entry_of
from gymnast_core.evaluation.session import TRIALS_LOG, TrialRecord, read_records
from gymnast_core.files import is_number, read_json
from gymnast_core.plain_yaml import parse_yaml
from gymnast_core.reporting.imagined_films import FILMS, read_films
from gymnast_core.results import RESULT

CONFIG, METRICS, PROGRESS, REPORT = "config.yaml", "metrics.jsonl", "progress.jsonl", "report.html"
PRACTISED = "practise.json"
SIGNS = frozenset((RESULT, METRICS, PROGRESS, TRIALS_LOG, PRACTISED))
"""A folder with one of these is a run."""
PRUNED = frozenset(("checkpoints", "tensorboard", "media", "frames", "adapter", "refused", "tokens"))
"""Folders of runs that hold none."""
MOST_ENTRIES, MOST_CONFIG_BYTES = 20_000, 200_000
MOST_FIGURES = 12
EPISODE = "episode"
PARENTS = ("policy", "init", "base", "model", "world_model", "adapter", "adaptation", "station", "config")
"""Fields of a config or result that name what something was made of."""


@dataclass(frozen=True)
class RunEntry:
    """One run or episode. path: from the folder that was searched. kind: "episode", "adapt", "trials", "canary",
    "practise", or the name of the folder that the run lies in. began: local time, ISO 8601. outcome: in a word or two,
    empty where it has none. success: its main figure, 0 to 1, None where there is none. made: the adapter that came of
    it. lineage: what it was made of, by field. figures: the numbers of its result. picture, report: paths below `path`,
    empty where there is none. problem: why it cannot be read."""

    path: str
    kind: str
    began: str
    outcome: str = ""
    task: str = ""
    policy: str = ""
    success: float | None = None
    made: str = ""
    lineage: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    picture: str = ""
    report: str = ""
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Whether it is among those that one looks at first."""
        return bool(self.problem) or self.outcome in ("failure", "aborted", "unfinished", "refused", "rolled back")


def entries_below(root: Path) -> list[RunEntry]:
    """Every run and episode at and below a folder, the latest first. Raises: DataError where there is none such."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; needed one with runs or episodes below it")
    found = []
    for folder, names in _folders(root):
        found.append(_entry(root, folder, names))
        if len(found) >= MOST_ENTRIES:
            break
    return sorted(found, key=lambda entry: (entry.began, entry.path), reverse=True)


def entry_at(folder: Path) -> RunEntry:
    """The entry of one folder. Raises: DataError where it is neither a run nor an episode."""
    names = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
    if HEADER_FILE not in names and not names & SIGNS:
        raise DataError(f"{folder}: neither a run nor an episode; `gymnast runs` lists those there are")
    return _entry(folder.parent, folder, names)


def _folders(root: Path) -> Iterator[tuple[Path, frozenset[str]]]:
    """Folders that are runs or episodes, with the names in them. Links are not followed."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError:
            continue
        names = frozenset(entry.name for entry in inside)
        if HEADER_FILE in names:
            yield folder, names
            continue
        if names & SIGNS:
            yield folder, names
        waiting += [
            Path(entry.path)
            for entry in inside
            if entry.is_dir(follow_symlinks=False) and entry.name not in PRUNED and not entry.name.startswith(".")
        ]


def _entry(root: Path, folder: Path, names: frozenset[str]) -> RunEntry:
    path = folder.relative_to(root).as_posix()
    try:
        return _episode(path, folder) if HEADER_FILE in names else _run(path, folder, names)
    except (GymnastError, OSError, ValueError) as error:
        kind = EPISODE if HEADER_FILE in names else folder.parent.name
        return RunEntry(path, kind, _began(folder), problem=one_line(str(error), 300))


def _episode(path: str, folder: Path) -> RunEntry:
    source = open_episode(folder)
    entry = entry_of(source)
    facts = source.describe().metadata
    figures = {name: float(facts[name]) for name in ("judge_score", "judge_confidence") if is_number(facts.get(name))}
    if entry.steps is not None:
        figures["steps"] = float(entry.steps)
    first = f"{FRAMES_FOLDER}/{0:06d}.png"
    last = f"{FRAMES_FOLDER}/{max(0, source.count() - 1):06d}.png"
    return RunEntry(
        path,
        EPISODE,
        entry.began,
        outcome=entry.outcome if entry.complete else f"{entry.outcome}, cut short",
        task=entry.task or entry.instruction,
        policy=entry.policy,
        success={"success": 1.0, "failure": 0.0}.get(entry.outcome),
        lineage={"policy": entry.policy} if entry.policy else {},
        figures=figures,
        picture=next((name for name in (last, first) if (folder / name).is_file()), ""),
    )


def _run(path: str, folder: Path, names: frozenset[str]) -> RunEntry:
    result = read_json(folder / RESULT) if RESULT in names else {}
    practised = read_json(folder / PRACTISED) if PRACTISED in names else {}
    records = read_records(folder) if TRIALS_LOG in names else []
    config = config_of(folder) if CONFIG in names else {}
    known = {**config, **result, **practised}
    outcome, success = _outcome(result, practised, records)
    return RunEntry(
        path,
        _kind(folder, result, practised, records),
        _began(folder),
        outcome=outcome if outcome or result or practised else "unfinished",
        task=one_line(str(known.get("task") or known.get("instruction") or (records[0].task if records else ""))),
        policy=_policies(known, records),
        success=success,
        made=str(known.get("adapter_id") or ""),
        lineage={name: str(known[name])[:200] for name in PARENTS if isinstance(known.get(name), str) and known[name]},
        figures=_figures({**practised, **result}),
        picture=_picture(folder),
        report=REPORT if REPORT in names else "",
    )


def config_of(folder: Path) -> dict[str, Any]:
    """The config that a run used; empty where it has none that can be read."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            return {}
        content = parse_yaml(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, GymnastError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _kind(folder: Path, result: Mapping[str, Any], practised: Mapping[str, Any], records: list[TrialRecord]) -> str:
    if practised:
        return "practise"
    if "evidence_better" in result or (records and "canary" in folder.parts):
        return "canary"
    if "adapter_id" in result and "success_before" in result:
        return "adapt"
    return "trials" if records else folder.parent.name


def _outcome(
    result: Mapping[str, Any], practised: Mapping[str, Any], records: list[TrialRecord]
) -> tuple[str, float | None]:
    """In words, and the main figure."""
    if practised:
        told = str(practised.get("adapter_state") or ("accepted" if practised.get("accepted") else "base kept"))
        return told, _share(practised.get("success_after"))
    if "state" in result and "evidence_better" in result:
        return str(result["state"]), None
    if "accepted" in result:
        return "accepted" if result["accepted"] else "base kept", _share(result.get("success_after"))
    if records:
        found = success_rate([record.value for record in records])
        return f"{round(found.mean * found.n) if found.n else 0} of {found.n}", _share(found.mean)
    return ("done" if result else ""), _share(result.get("success_rate"))


def _policies(known: Mapping[str, Any], records: list[TrialRecord]) -> str:
    if records:
        return ", ".join(dict.fromkeys(record.policy for record in records))[:200]
    return one_line(str(known.get("policy") or ""))


def _figures(content: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in content.items() if is_number(value) and value == value}
    return dict(list(numbers.items())[:MOST_FIGURES])


def _picture(folder: Path) -> str:
    """One that shows what the run is about: its start frame, a film strip, else any picture."""
    if (folder / "frame.png").is_file():
        return "frame.png"
    media = folder / "media"
    films = read_films(folder) if (folder / FILMS).is_dir() else []
    if films:
        return f"{FILMS}/{films[-1]['film']}"
    pictures = sorted(path for kind in ("jpg", "png") for path in media.glob(f"*.{kind}"))
    return f"media/{pictures[-1].name}" if pictures else ""


def _share(value: Any) -> float | None:
    return float(value) if is_number(value) and 0.0 <= value <= 1.0 else None


def _began(folder: Path) -> str:
    """Of its config, which is written first; else of the folder."""
    for path in (folder / CONFIG, folder / "request.json", folder):
        try:
            return datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="seconds")
        except OSError:
            continue
    return ""

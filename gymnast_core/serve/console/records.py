"""What practice, canary and trials have written so far, read from their folders while they go on.

Nothing is read while nobody looks. A log that grows is read from where it ended before.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gymnast_core.config import CanaryConfig
from gymnast_core.errors import DataError, DocumentError, GymnastError
from gymnast_core.estimates import wilson_interval
from gymnast_core.evaluation.canary import pairs_of
from gymnast_core.evaluation.session import TRIALS_LOG, TrialRecord, read_records
from gymnast_core.files import is_number, read_json
from gymnast_core.plain_json import parse_json
from gymnast_core.reporting.imagined_films import FILMS, FILMS_LOG
from gymnast_core.results import RESULT
from gymnast_core.sequential_test import PairedTest
from gymnast_core.serve.job_store import FILE as QUEUE_FILE
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.job_view import describe_job

LOOK_S = 0.5
"""Folders are looked at no more often than this."""
SEARCH_S = 2.0
"""How often the newest run is searched for."""
QUEUE_S = 3.0
SHOWN_FILMS = 60
SHOWN_POINTS = 400
SHOWN_JOBS = 20
SHOWN_TRIALS = 12
SHOWN_FIGURES = ("message", "accepted", "adapter_id", "success_before", "success_after", "standard_error", "stopped_by")


class Lines:
    """A log of JSON lines that grows. all: its objects so far; a line that is being written waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[dict[str, Any]] = []
        self._read = 0

    def look(self) -> bool:
        """Read on; whether anything came. A file that became shorter (a resumed run cuts it) is read anew."""
        try:
            size = self.path.stat().st_size
            if size == self._read:
                return False
            if size < self._read:
                self.all, self._read = [], 0
            with open(self.path, "rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except OSError:
            return False
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for text in whole.decode("utf-8", errors="replace").splitlines():
            try:
                line = parse_json(text)
            except DocumentError:
                continue
            if isinstance(line, dict):
                self.all.append(line)
        return bool(whole)


class PracticeRecord:
    """One practice's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._progress, self._metrics = Lines(folder / "progress.jsonl"), Lines(folder / "metrics.jsonl")
        self._films = Lines(folder / FILMS_LOG)

    def look(self) -> dict[str, Any]:
        """What it has written so far."""
        for lines in (self._progress, self._metrics, self._films):
            lines.look()
        last = self._progress.all[-1] if self._progress.all else {}
        verdicts = [str(line.get("verdict", "")) for line in self._films.all]
        return {
            "name": self.folder.name,
            "phase": str(last.get("phase", "")),
            "iteration": last.get("iteration", 0),
            "iterations": last.get("iterations", 0),
            "seconds_left": last.get("seconds_left"),
            "result": self._result(),
            "curve": _thin(
                [
                    [line["step"], line.get("mean_reward"), line.get("usable_groups")]
                    for line in self._metrics.all
                    if is_number(line.get("step")) and "mean_reward" in line
                ]
            ),
            "films": self._films.all[-SHOWN_FILMS:],
            "film_count": len(verdicts),
            "verdicts": {name: verdicts.count(name) for name in ("success", "failure", "abstained")},
        }

    def film(self, name: str) -> Path | None:
        """The file of a film that its log names."""
        known = any(line.get("film") == name for line in self._films.all)
        path = self.folder / FILMS / name
        return path if known and path.is_file() else None

    def _result(self) -> dict[str, Any] | None:
        path = self.folder / RESULT
        if not path.exists():
            return None
        try:
            found = read_json(path)
        except GymnastError as error:
            return {"message": str(error)}
        return {name: found[name] for name in (*SHOWN_FIGURES, "failed_conditions") if name in found}


class Records:
    """What lies below `root`, the folder of a station's runs. version: changes with the content."""

    def __init__(self, root: Path, canary: CanaryConfig) -> None:
        self._root, self._canary = root, canary
        self._lock = threading.Lock()
        self._practice: PracticeRecord | None = None
        self._trials: dict[str, Path | None] = {"canary": None, "trials": None}
        self._searched = self._looked = self._asked_queue = -1e9
        self._jobs: dict[str, Any] | None = None
        self._content: dict[str, Any] = {}
        self.version = 0

    def look(self) -> tuple[int, dict[str, Any]]:
        """Version and content: practice, canary, trials and queue, each None where there is none."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= LOOK_S:
                self._looked = now
                content = self._read(now)
                if content != self._content:
                    self._content, self.version = content, self.version + 1
            return self.version, self._content

    def film(self, run: str, name: str) -> Path | None:
        """The file of a film of the practice that is shown."""
        with self._lock:
            practice = self._practice
            return practice.film(name) if practice is not None and practice.folder.name == run else None

    def _read(self, now: float) -> dict[str, Any]:
        if now - self._searched >= SEARCH_S:
            self._searched = now
            self._search()
        if now - self._asked_queue >= QUEUE_S:
            self._asked_queue = now
            self._jobs = queue_of(self._root / "queue")
        return {
            "practice": self._practice.look() if self._practice is not None else None,
            "canary": _readable(self._trials["canary"], lambda folder: canary_of(read_records(folder), self._canary)),
            "trials": _readable(self._trials["trials"], lambda folder: trials_of(read_records(folder))),
            "queue": self._jobs,
        }

    def _search(self) -> None:
        newest = _newest([path for path in _folders(self._root / "adapt") if (path / "progress.jsonl").exists()])
        if newest is not None and (self._practice is None or self._practice.folder != newest):
            self._practice = PracticeRecord(newest)
        practised = _newest(_folders(self._root / "practise"))
        rounds = sorted(practised.glob("rounds/*/canary/task")) if practised is not None else []
        alone = sorted(self._root.glob("canary/*/task"))
        self._trials["canary"] = _newest([path for path in (*rounds, *alone) if (path / TRIALS_LOG).exists()])
        self._trials["trials"] = _newest(
            [path for path in _folders(self._root / "trials") if (path / TRIALS_LOG).exists()]
        )


def canary_of(records: Sequence[TrialRecord], config: CanaryConfig) -> dict[str, Any] | None:
    """Pairs of base and adapter in their order, and the e-process after each of them; None before the first pair."""
    adapter = next((record.policy for record in records if record.policy != "base"), "")
    if not adapter:
        return None
    pairs = [(base.value, adapted.value) for base, adapted in pairs_of(records[: len(records) // 2 * 2], adapter)]
    tests = [PairedTest.of(config.alpha, pairs[:count]) for count in range(len(pairs) + 1)]
    return {
        "adapter": adapter,
        "bound": 1.0 / config.alpha,
        "pairs": [[_value(base), _value(adapted)] for base, adapted in pairs],
        "better": [test.evidence_better for test in tests],
        "worse": [test.evidence_worse for test in tests],
        "verdict": tests[-1].verdict,
        "words": str(tests[-1]),
    }


def trials_of(records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Success of each policy at each task with its 95 % interval (Wilson), and the latest trials."""
    if not records:
        return None
    rates = []
    for policy, task in dict.fromkeys((record.policy, record.task) for record in records):
        values = [record.value for record in records if (record.policy, record.task) == (policy, task)]
        judged = [value for value in values if value == value]
        rates.append(
            {
                "policy": policy,
                "task": task,
                "successes": int(sum(judged)),
                "n": len(judged),
                "abstained": len(values) - len(judged),
                "interval": wilson_interval(judged),
            }
        )
    latest = [
        {
            "trial": one.trial,
            "policy": one.policy,
            "value": _value(one.value),
            "steps": one.steps,
            "seconds": one.seconds,
        }
        for one in records[-SHOWN_TRIALS:]
    ]
    return {"rates": rates, "latest": latest}


def queue_of(folder: Path) -> dict[str, Any] | None:
    """The station's queue without what is its users' own business; None where it has none."""
    if not (folder / QUEUE_FILE).exists():
        return None
    try:
        store = JobStore(folder)
        jobs = [describe_job(job, whole=False) for job in store.jobs()]
    except DataError as error:
        return {"paused": "", "jobs": [], "problem": str(error)}
    return {"paused": store.paused, "jobs": jobs[:SHOWN_JOBS], "count": len(jobs)}


def _readable(folder: Path | None, read: Any) -> dict[str, Any] | None:
    """What is read of a folder of trials, or why it cannot be."""
    if folder is None:
        return None
    try:
        found: Mapping[str, Any] | None = read(folder)
    except DataError as error:
        return {"folder": folder.parent.name, "problem": str(error)}
    return None if found is None else {"folder": folder.parent.name if folder.name == "task" else folder.name, **found}


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def _newest(folders: Sequence[Path]) -> Path | None:
    def changed(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    return max(folders, key=lambda path: (changed(path), path.name), default=None)


def _value(value: float) -> float | None:
    return value if value == value else None


def _thin(points: list[list[Any]]) -> list[list[Any]]:
    """At most SHOWN_POINTS of them, the last one always."""
    step = max(1, -(-len(points) // SHOWN_POINTS))
    kept = points[::step]
    return kept if not points or kept[-1] is points[-1] else [*kept, points[-1]]

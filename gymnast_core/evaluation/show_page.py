"""The page of one episode: what is known of it, its film strip, what the arm was sent and where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gymnast_core.data.episode import Episode
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.errors import DataError
from gymnast_core.evaluation.episode_strip import chosen_frames, strip_of
from gymnast_core.evaluation.findings import Finding
from gymnast_core.evaluation.logbook import LogEntry, facts_of
from gymnast_core.reporting.media import write_picture
from gymnast_core.reporting.report import Curve, Figure, Section, Series, write_report

STRIPS, PICTURES = 4, 8
"""Rows of the film strip, and frames in each."""


def write_show_page(run: Path, source: StoredEpisode, entry: LogEntry | None, findings: Sequence[Finding]) -> Path:
    """Write report.html into `run`. Raises: DataError when it cannot be written."""
    value = {"success": 1.0, "failure": 0.0}.get(entry.outcome if entry else "")
    sections = [
        Section("What is known", facts=facts_of(source, entry)),
        Section("Film", figures=tuple(_strips(run, source, value))),
    ]
    if findings:
        rows = tuple((one.code, one.place or "all of it", one.found, one.remedy) for one in findings)
        bad = any(one.severity == "error" for one in findings)
        head = ("finding", "where", "found", "what to do")
        sections.insert(0, Section("What is wrong", status="bad" if bad else "warning", rows=(head, *rows)))
    try:
        episode = source.bridge_steps()
    except DataError:
        episode = None
    if episode is not None and episode.length:
        sections.append(Section("Actions and states", curves=_curves(episode)))
    return write_report(run, f"Episode {source.name}", sections, str(source.path))


def _strips(run: Path, source: StoredEpisode, value: float | None) -> list[Figure]:
    try:
        count = source.count()
    except DataError:
        return []
    numbers = chosen_frames(count, STRIPS * PICTURES)
    figures = []
    for row in range(0, len(numbers), PICTURES):
        shown = numbers[row : row + PICTURES]
        if (strip := strip_of(source, shown, value)) is not None:
            name = f"media/film_{row // PICTURES}.jpg"
            write_picture(run / name, strip)
            figures.append(Figure(name, f"frames {', '.join(map(str, shown))}"))
    return figures


def _curves(episode: Episode) -> tuple[Curve, ...]:
    curves = [
        Curve("Executed translation, metres", "step", _series(episode.executed[:, :3], ("x", "y", "z"))),
        Curve("Executed rotation, radians", "step", _series(episode.executed[:, 3:6], ("roll", "pitch", "yaw"))),
    ]
    gripper = _series(episode.executed[:, 6:7], ("sent, 1 = open",))
    if np.isfinite(episode.states).any():
        curves.append(Curve("Measured position, metres", "frame", _series(episode.states[:, :3], ("x", "y", "z"))))
        gripper += _series(episode.states[:, 6:7], ("measured",))
    return (*curves, Curve("Gripper", "step", gripper))


def _series(values: np.ndarray, names: Sequence[str]) -> tuple[Series, ...]:
    x = tuple(float(step) for step in range(len(values)))
    return tuple(
        Series(name, x, tuple(float(value) if np.isfinite(value) else None for value in values[:, column]))
        for column, name in enumerate(names)
    )

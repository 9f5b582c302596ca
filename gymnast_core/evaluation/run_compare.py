"""The page that shows several runs or episodes side by side: figures, curves, films in step, differences of config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gymnast_core.data.episode import HEADER_FILE
from gymnast_core.data.formats import open_episode
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import DataError
from gymnast_core.evaluation.run_index import METRICS, RunEntry, config_of
from gymnast_core.files import is_number, read_json_lines
from gymnast_core.reporting.imagined_films import FILMS, read_films
from gymnast_core.reporting.media import write_video
from gymnast_core.reporting.report import Curve, Figure, Section, Series, metric_curve, write_report

MOST_CURVES, MOST_DIFFERENCES = 24, 200
FIRST_CURVES = ("mean_reward", "usable_groups", "success", "loss")
"""Metrics that come before the others."""
SIDE, GAP, TITLE = 192, 6, 22
LONGEST = 120
"""Frames of the film at most."""
FPS = 5.0
AXES = ("x", "y", "z")


def compare_folders(out: Path, folders: Sequence[Path], entries: Sequence[RunEntry]) -> Path:
    """Write report.html into `out`; failures come first. Raises: DataError when it cannot be written."""
    order = sorted(range(len(folders)), key=lambda place: not entries[place].failed)
    folders, entries = [folders[place] for place in order], [entries[place] for place in order]
    names = _names(folders)
    sections = [_figures(names, entries), *_films(out, names, folders), *_curves(names, folders, entries)]
    sections.append(_differences(names, folders, entries))
    return write_report(out, f"{len(folders)} side by side", sections, ", ".join(names))


def _names(folders: Sequence[Path]) -> list[str]:
    """Folders' own names where each has its own, else with those of the folders above."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [f"{folder.parent.name}/{folder.name}" for folder in folders]


def _figures(names: Sequence[str], entries: Sequence[RunEntry]) -> Section:
    rows: list[tuple[str, ...]] = [("", *names)]
    for what in ("kind", "began", "outcome", "task", "policy", "made"):
        values = [str(getattr(entry, what)) for entry in entries]
        if any(values):
            rows.append((what, *values))
    for what in dict.fromkeys(name for entry in entries for name in entry.figures):
        found = [entry.figures.get(what) for entry in entries]
        rows.append((what.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in found)))
    for what in dict.fromkeys(name for entry in entries for name in entry.lineage):
        rows.append((f"made from: {what}", *(entry.lineage.get(what, "") for entry in entries)))
    bad = [name for name, entry in zip(names, entries) if entry.failed]
    text = f"Failed or unfinished: {', '.join(bad)}." if bad else ""
    return Section("Figures", text, "warning" if bad else "", rows=tuple(rows))


def _curves(names: Sequence[str], folders: Sequence[Path], entries: Sequence[RunEntry]) -> list[Section]:
    """A curve of each metric that at least one run logged, a line for each run; of episodes, where the arm was."""
    curves = []
    logs = [read_json_lines(folder / METRICS) for folder in folders]
    metrics = {name for lines in logs for line in lines for name in line if is_number(line[name])} - {"step", "time"}
    rank = {name: place for place, name in enumerate(FIRST_CURVES)}
    for metric in sorted(metrics, key=lambda name: (rank.get(name, len(rank)), name))[:MOST_CURVES]:
        series = [
            line
            for name, folder in zip(names, folders)
            if (folder / METRICS).exists()
            for line in metric_curve(folder, {metric: name}, metric).series
        ]
        curves.append(Curve(metric, "step", tuple(series)))
    states = {name: _states(folder) for name, folder in zip(names, folders) if (folder / HEADER_FILE).is_file()}
    for column, axis in enumerate(AXES):
        series = [
            Series(name, tuple(map(float, range(len(found)))), tuple(_known(value) for value in found[:, column]))
            for name, found in states.items()
            if found is not None and np.isfinite(found[:, column]).any()
        ]
        if series:
            curves.append(Curve(f"Measured {axis}, metres", "frame", tuple(series)))
    return [Section("Curves", curves=tuple(curves))] if curves else []


def _states(folder: Path) -> np.ndarray | None:
    """(T + 1, 7) measured states of an episode; None where they cannot be read."""
    try:
        episode = open_episode(folder).bridge_steps()
    except DataError:
        return None
    return None if episode is None else episode.states


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _films(out: Path, names: Sequence[str], folders: Sequence[Path]) -> list[Section]:
    """One film in which all play in step; a shorter one waits at its last frame."""
    found = {name: frames for name, folder in zip(names, folders) if (frames := _frames(folder))}
    if not found:
        return []
    length = max(map(len, found.values()))
    columns = [[_titled(name, frames[min(step, len(frames) - 1)]) for step in range(length)]
               for name, frames in found.items()]  # fmt: skip
    gap = np.full((SIDE + TITLE, GAP, 3), 255, np.uint8)
    film = []
    for together in zip(*columns):
        parts = [part for picture in together for part in (picture, gap)][:-1]
        film.append(np.concatenate(parts, axis=1))
    write_video(out / "media" / "in_step.mp4", np.stack(film), FPS)
    kinds = "The latest imagined rollout of a practice, or the frames of an episode; a shorter one waits at its end."
    return [Section("Films in step", kinds, figures=(Figure("media/in_step.mp4", ", ".join(found)),))]


def _frames(folder: Path) -> list[np.ndarray]:
    """Frames (SIDE, SIDE, 3) uint8 of an episode, or of a practice's latest film; empty where there are none."""
    try:
        if (folder / HEADER_FILE).is_file():
            source = open_episode(folder)
            numbers = np.unique(np.linspace(0, source.count() - 1, min(LONGEST, source.count())).astype(int))
            return [resize_frame(source.frame(int(number)), SIDE) for number in numbers]
        films = read_films(folder)
        if not films:
            return []
        strip = read_image(folder / FILMS / films[-1]["film"])
        side = strip.shape[0]
        return [resize_frame(strip[:, left : left + side], SIDE) for left in range(0, strip.shape[1] - side + 1, side)]
    except (DataError, IndexError):
        return []


def _titled(name: str, frame: np.ndarray) -> np.ndarray:
    """A frame below its name, (SIDE + TITLE, SIDE, 3)."""
    head = np.full((TITLE, SIDE, 3), 255, np.uint8)
    shown = name.encode("ascii", "replace").decode()[-26:]
    cv2.putText(head, shown, (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (60, 60, 60), 1, cv2.LINE_AA)
    return np.concatenate((head, frame))


def _differences(names: Sequence[str], folders: Sequence[Path], entries: Sequence[RunEntry]) -> Section:
    """Options that are not the same in all."""
    flat = [_flat(config_of(folder) or entry.lineage) for folder, entry in zip(folders, entries)]
    options = dict.fromkeys(name for one in flat for name in one)
    differing = [name for name in options if len({one.get(name) for one in flat}) > 1][:MOST_DIFFERENCES]
    if not differing:
        return Section("Config", "All options are the same." if any(flat) else "None of them wrote down its options.")
    rows = [("option", *names), *((name, *(one.get(name, "") for one in flat)) for name in differing)]
    return Section("What their configs differ in", rows=tuple(rows))


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Values as text, by dotted names."""
    found: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = str(value)[:120]
    return found

"""`gymnast evaluate judge`: how far a judge can be trusted, measured on episodes whose outcome is known."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import Episode, find_episodes, read_episode
from gymnast_core.errors import DataError
from gymnast_core.graph import find_station_file
from gymnast_core.progress import console, progress_bar
from gymnast_core.protocols import Judge, Verdict
from gymnast_core.reporting.media import film_strip, write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, write_report
from gymnast_core.reward import load_judge
from gymnast_core.reward.agreement import Agreement, measure_agreement
from gymnast_core.reward.spending import spent_by
from gymnast_core.run_folder import RunFolder

SHOWN_MISTAKES = 6


@dataclass(frozen=True)
class EvaluateJudgeConfig:
    """Measure a judge against labelled episodes."""

    data: tuple[str, ...]
    """Folders with logged episodes that have an outcome."""
    config: str = "simulated_drawer"
    """Station file whose judge is measured."""
    checkpoint: str = ""
    """Folder of a learned judge instead of the station's."""
    run: str = ""
    """Run folder; empty: a new one below runs/evaluate_judge."""
    limit: Annotated[int, Field(ge=1)] = 100000
    """At most so many episodes (a VLM costs money)."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Episodes judged at a time."""


def evaluate_judge(config: EvaluateJudgeConfig) -> int:
    """Judge every labelled episode, print the agreement, write a report with the mistakes."""
    path = find_station_file(config.config)
    station = load_config(StationConfig, path)
    if config.checkpoint:
        judging = dataclasses.replace(station.judge, kind="classifier", checkpoint=config.checkpoint)
        station = dataclasses.replace(station, judge=judging)
    run = RunFolder(config.run or f"runs/evaluate_judge/{datetime.now():%Y%m%d_%H%M%S}", config, tensorboard=False)
    judge = load_judge(station, path, run.path)
    verdicts, outcomes, strips = _judge_all(judge, config, run)
    found = measure_agreement(verdicts, outcomes)
    run.write_result(found.facts())
    _write_page(run, judge, found, strips, verdicts)
    console.print(
        f"judge '{judge.name}' on {found.judged} of {found.episodes} labelled episodes: {found}", highlight=False
    )
    for words in (*_abstentions(verdicts), spent_by(judge)):
        if words:
            console.print(words, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {run.path / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _judge_all(
    judge: Judge, config: EvaluateJudgeConfig, run: RunFolder
) -> tuple[list[Verdict], list[bool], list[tuple[str, str]]]:
    folders = [folder for name in config.data for folder in find_episodes(name)]
    verdicts: list[Verdict] = []
    outcomes: list[bool] = []
    strips: list[tuple[str, str]] = []
    with progress_bar() as bar:
        task = bar.add_task("judging episodes", total=min(len(folders), config.limit), note="")
        for begin in range(0, len(folders), config.batch):
            if len(outcomes) >= config.limit:
                break
            part = folders[begin : begin + config.batch]
            episodes = [episode for folder in part if (episode := _readable(folder)) is not None]
            chosen = [episode for episode in episodes if episode.success is not None][: config.limit - len(outcomes)]
            videos = [episode.frames[judge.frame_indices(len(episode.frames))] for episode in chosen]
            said = judge.judge(videos, [episode.instruction for episode in chosen])
            for episode, verdict in zip(chosen, said):
                mistaken = verdict.completed is not None and verdict.completed != episode.success
                if mistaken and len(strips) < SHOWN_MISTAKES:
                    name = f"media/mistake_{len(strips)}.png"
                    write_picture(run.path / name, film_strip(episode.frames, 8, 112, float(bool(episode.success))))
                    truth = "completed" if episode.success else "not completed"
                    strips.append((name, f"'{episode.instruction}', truly {truth}; the judge: {verdict.reason}"))
            verdicts += said
            outcomes += [bool(episode.success) for episode in chosen]
            bar.update(task, advance=len(part if config.limit >= len(folders) else chosen))
    if not outcomes:
        raise DataError(
            f"{', '.join(config.data)}: none of {len(folders)} episodes is readable and has an outcome; label them"
        )
    return verdicts, outcomes, strips


def _abstentions(verdicts: Sequence[Verdict]) -> list[str]:
    """Why the judge abstained, most frequent first."""
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.completed is None)
    return [f"abstained {count} times: {reason}" for reason, count in reasons.most_common(3)]


def _readable(folder: Path) -> Episode | None:
    """The episode; None, with a warning, where a file of it is damaged: what was judged so far may have cost money."""
    try:
        return read_episode(folder)
    except DataError as error:
        console.print(f"warning: left out: {error}", style="yellow", markup=False, soft_wrap=True)
        return None


def _write_page(
    run: RunFolder, judge: Judge, found: Agreement, strips: Sequence[tuple[str, str]], verdicts: Sequence[Verdict]
) -> None:
    def bar(label: str, value: float, error: float | None = None) -> Bar:
        return Bar(label, value if math.isfinite(value) else None, error, found.judged)

    sections = [
        Section(
            "Agreement with what really happened",
            f"{found.judged} of {found.episodes} labelled episodes got a verdict; the rest are abstentions.",
            bars=(
                bar("agreement", found.agreement, found.standard_error),
                bar("precision", found.precision),
                bar("recall", found.recall),
            ),
            facts=(
                ("false positives", str(found.false_positives)),
                ("false negatives", str(found.false_negatives)),
                ("calibration error", f"{found.calibration_error:.3f}"),
                *(("abstentions", words) for words in _abstentions(verdicts)),
                *((("spent", words),) if (words := spent_by(judge)) else ()),
            ),
        ),
        Section(
            "Calibration",
            "How often the judge is right where it says it is this sure.",
            rows=(
                ("confidence", "right", "episodes"),
                *((f"{mean:.2f}", f"{share:.2f}", str(count)) for mean, share, count in found.bins),
            ),
        ),
    ]
    if strips:
        sections.append(Section("Mistakes", figures=tuple(Figure(name, words) for name, words in strips)))
    write_report(run.path, f"Judge: {judge.name}", sections)

"""`gymnast judge evaluate`: how far a judge can be trusted, measured on episodes whose outcome is known."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from gymnast_core.commands import HELD_OUT, brief, gymnast, name_next
from gymnast_core.config import find_model
from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.data.outcome import LABEL_THEM, Outcome, in_words, said_by
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.judge_config import EvaluateJudgeConfig
from gymnast_core.evaluation.judge_threshold import find_threshold, threshold_facts, threshold_lines, threshold_section
from gymnast_core.progress import busy, console, progress_bar, say
from gymnast_core.protocols import Judge, Verdict
from gymnast_core.reporting.media import film_strip, write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, write_report
from gymnast_core.reward.agreement import Agreement, measure_agreement
from gymnast_core.reward.classifier import episode_mark, taught_by
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.spending import spent_by
from gymnast_core.rollout.open import find_gate_judge
from gymnast_core.run_folder import RunFolder
from gymnast_core.station_file import StationFile, open_station

SHOWN_MISTAKES = 6
STRIP = 8
"""Frames of a mistake that the report shows."""


@dataclass(frozen=True)
class Labelled:
    """An episode whose outcome is known, with the frames (n, H, W, 3) that the judge looks at."""

    source: StoredEpisode
    instruction: str
    outcome: Outcome
    seen: np.ndarray

    @property
    def success(self) -> bool:
        """Whether the task was done, by the best authority."""
        return bool(self.outcome.success)

    def shown(self) -> np.ndarray:
        """Frames (n, H, W, 3) for people, evenly spaced."""
        count = self.source.count()
        return self.source.pick(np.unique(np.linspace(0, count - 1, min(STRIP, count)).round().astype(int)).tolist())


def evaluate_judge(config: EvaluateJudgeConfig) -> int:
    """Judge every labelled episode, print the agreement, write a report with the mistakes.

    Returns 0, or 1 where the judge gave no verdict at all.
    """
    station = _measured(config)
    run = RunFolder(config.run or f"runs/evaluate_judge/{datetime.now():%Y%m%d_%H%M%S}", config, tensorboard=False)
    with busy("loading judge"):
        judge = load_judge(station.config, station.path, run.path)
    verdicts, outcomes, strips = _judge_all(judge, station, config, run)
    found = measure_agreement(verdicts, [bool(outcome.success) for outcome in outcomes])
    who = said_by(outcomes)
    threshold = find_threshold(verdicts, outcomes, config.criterion)
    run.write_result({**found.facts(), "outcomes_by": who, **threshold_facts(threshold)})
    _write_page(run, judge, found, strips, verdicts, who, threshold_section(threshold, station.config.judge))
    say(f"judge '{judge.name}' on {found.judged} of {found.episodes} labelled episodes: {found}")
    say(f"outcomes: {in_words(who)}")
    if judged := sum(outcome.judged for outcome in outcomes):
        say(f"warning: {judged} outcomes are another verdict of a judge, no truth: {LABEL_THEM}", "yellow")
    lines = threshold_lines(threshold, station, config)
    for words in (*_abstentions(verdicts), spent_by(judge), *lines):
        if words:
            say(words, "yellow" if words.startswith("warning") else "")
    say(f"report: {run.path / 'report.html'}")
    if not found.judged:
        say("nothing was measured: look at why the judge abstained, mend that, and measure again", "bold yellow")
        return 1
    if config.checkpoint and not config.gate and not any(words.startswith("to use") for words in lines):
        chosen = find_model(config.checkpoint, station.path)
        say(f"to use this judge, write into {station.path}: judge: {{kind: classifier, checkpoint: {chosen}}}")
    name_next(_next(station, config))
    return 0


def _measured(config: EvaluateJudgeConfig) -> StationFile:
    """The station file, with the judge that is to be measured in the place of its own. Raises: ConfigError."""
    station = open_station(config.config, judge="" if config.gate else config.checkpoint)
    if not config.gate:
        return station
    other = find_gate_judge(station, config.checkpoint)
    if other is None:
        raise ConfigError(f"{station.path}: adaptation.gate_judge: found no judge besides the one that trains")
    return dataclasses.replace(station, config=dataclasses.replace(station.config, judge=other))


def _judge_all(
    judge: Judge, station: StationFile, config: EvaluateJudgeConfig, run: RunFolder
) -> tuple[list[Verdict], list[Outcome], list[tuple[str, str]]]:
    sources = _not_learned_from(judge, station, [source for name in config.data for source in find_all(name)])
    verdicts: list[Verdict] = []
    outcomes: list[Outcome] = []
    strips: list[tuple[str, str]] = []
    with progress_bar() as bar:
        task = bar.add_task("judging episodes", total=min(len(sources), config.limit), note="")
        for begin in range(0, len(sources), config.batch):
            if len(outcomes) >= config.limit:
                break
            part = sources[begin : begin + config.batch]
            readable = [labelled for source in part if (labelled := _readable(source, judge)) is not None]
            chosen = readable[: config.limit - len(outcomes)]
            said = judge.judge([one.seen for one in chosen], [one.instruction for one in chosen])
            for one, verdict in zip(chosen, said):
                if verdict.completed is not None and verdict.completed != one.success and len(strips) < SHOWN_MISTAKES:
                    name = f"media/mistake_{len(strips)}.png"
                    write_picture(run.path / name, film_strip(one.shown(), STRIP, 112, float(one.success)))
                    truth = "completed" if one.success else "not completed"
                    strips.append((name, f"'{one.instruction}', truly {truth}; the judge: {verdict.reason}"))
            verdicts += said
            outcomes += [one.outcome for one in chosen]
            bar.update(task, advance=len(part if config.limit >= len(sources) else chosen))
    if not outcomes:
        raise DataError(
            f"{', '.join(config.data)}: no episode (of {len(sources)}) is readable and has an outcome; {LABEL_THEM}"
        )
    return verdicts, outcomes, strips


def _not_learned_from(judge: Judge, station: StationFile, sources: list[StoredEpisode]) -> list[StoredEpisode]:
    """The episodes that did not teach a learned judge. Raises: DataError where there is none."""
    if judge.name != "classifier":
        return sources
    taught = taught_by(find_model(station.config.judge.checkpoint, station.path))
    kept = [source for source in sources if episode_mark(source.path) not in taught]
    if len(kept) < len(sources):
        say(f"{len(sources) - len(kept)} of {len(sources)} episodes taught this judge, and are left out")
    if not kept:
        raise DataError("data: every episode taught this judge; give others, or train it with a larger --held-out")
    return kept


def _next(station: StationFile, config: EvaluateJudgeConfig) -> str:
    """The command that makes the world model know this station."""
    model = station.config.models.world_model
    with contextlib.suppress(ConfigError):
        model = brief(station.world_model_folder)
    run = Path("runs/world_model") / station.config.name
    return gymnast("world-model finetune", init=model, data=config.data, held_out=HELD_OUT, run=run)


def _abstentions(verdicts: Sequence[Verdict]) -> list[str]:
    """Why the judge abstained, most frequent first."""
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.completed is None)
    return [f"abstained {count} times: {reason}" for reason, count in reasons.most_common(3)]


def _readable(source: StoredEpisode, judge: Judge) -> Labelled | None:
    """The episode where its outcome is known; None, with a warning, where a file of it is damaged: what was judged so
    far may have cost money."""
    try:
        outcome = source.outcome()
        if outcome.success is None:
            return None
        seen = source.pick(judge.frame_indices(source.count()))
        return Labelled(source, source.instruction(), outcome, seen)
    except DataError as error:
        console.print(f"warning: left out: {error}", style="yellow", markup=False, soft_wrap=True)
        return None


def _write_page(
    run: RunFolder,
    judge: Judge,
    found: Agreement,
    strips: Sequence[tuple[str, str]],
    verdicts: Sequence[Verdict],
    who: Mapping[str, int],
    more: Sequence[Section],
) -> None:
    def bar(label: str, value: float, n: int, error: float | None = None) -> Bar:
        return Bar(label, value if math.isfinite(value) else None, error, n)

    sections = [
        Section(
            "Agreement with what really happened",
            f"{found.judged} of {found.episodes} labelled episodes got a verdict; the rest are abstentions.\n"
            f"Precision: of the {found.called} episodes that the judge called completed, how many truly were.\n"
            f"Recall: of the {found.completed} episodes that truly were completed, how many the judge called so.",
            bars=(
                bar("agreement", found.agreement, found.judged, found.standard_error),
                bar("precision", found.precision, found.called),
                bar("recall", found.recall, found.completed),
            ),
            facts=(
                ("false positives", str(found.false_positives)),
                ("false negatives", str(found.false_negatives)),
                ("calibration error", f"{found.calibration_error:.3f}"),
                ("outcomes", in_words(who)),
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
        *more,
    ]
    if strips:
        sections.append(Section("Mistakes", figures=tuple(Figure(name, words) for name, words in strips)))
    write_report(run.path, f"Judge: {judge.name}", sections)

"""The page of rounds of practice: what acts in the end, and of each round what imagination, gate and robot said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gymnast_core.reporting.report import Bar, BarTone, Section, write_report
from gymnast_core.workflows.learn_result import GateFigures, Learned, Pictures
from gymnast_core.workflows.learned_station import WORLD_MODEL
from gymnast_core.workflows.rounds import PractiseResult, RoundRecord

HEAD = ("round", "imagined", "gate", "the robot: base, adapter", "became", "learned from", "seconds")


def write_practise_page(folder: Path, result: PractiseResult) -> Path:
    """Write report.html into a run folder. Raises: DataError when it cannot be written."""
    sections = [_outcome(result)]
    for record in result.rounds:
        title = "The first practice" if record.number == 0 else f"Round {record.number}"
        sections.append(practice_section(title, record))
        if record.learned is not None:
            sections.append(learned_section(f"What was learned from round {record.number}", record.learned))
    return write_report(folder, f"Rounds of practice: {result.instruction}", sections, f"run {folder.name}")


def _outcome(result: PractiseResult) -> Section:
    bars = []
    for record in result.rounds:
        if record.imagined_before is not None:
            bars.append(
                Bar(f"round {record.number}: imagined before", record.imagined_before, None, record.pairs, "muted")
            )
        if record.imagined_after is not None and record.updates:
            tone: BarTone = "good" if record.adapter else "plain"
            bars.append(Bar(f"round {record.number}: imagined after", record.imagined_after, None, record.pairs, tone))
    return Section(
        "Outcome",
        result.message,
        "good" if result.adapter else "warning",
        facts=(
            ("station, task", f"{result.station}, {result.task}"),
            ("what acts", f"adapter {result.adapter} ({result.state})" if result.adapter else "the base policy"),
            ("rounds", f"{len(result.rounds) - 1} of at most {result.rounds_allowed} after the first practice"),
            ("station file of the last round", result.station_file),
            ("seconds in all", f"{sum(map(_seconds, result.rounds)):.0f}"),
        ),
        bars=tuple(bars),
        rows=(HEAD, *map(_row, result.rounds)),
    )


def _row(record: RoundRecord) -> tuple[str, ...]:
    canary, learned = record.canary, record.learned
    tried = "-"
    if canary is not None:
        tried = f"{canary.base_successes}, {canary.adapter_successes} of {canary.pairs}: {canary.verdict}"
    return (
        str(record.number),
        f"{_share(record.imagined_before)} -> {_share(record.imagined_after)}",
        "holds" if not record.distrust else "does not hold",
        tried,
        record.state or "no adapter",
        "-" if learned is None else f"{learned.episodes} episodes",
        f"{_seconds(record):.0f}",
    )


def practice_section(title: str, record: RoundRecord) -> Section:
    """A practice, and what gate and robot said of it."""
    facts: list[tuple[str, str]] = [
        ("practice", record.message),
        ("updates", str(record.updates)),
        ("world model", record.gate),
        *(("the gate misses", words) for words in record.distrust),
        ("station file", record.station),
    ]
    canary = record.canary
    if canary is not None:
        facts += [
            ("canary", canary.reason),
            ("pairs of trials", f"{canary.pairs}, and {canary.void} that do not count; {canary.trials} trials in all"),
            ("holds and refusals per trial", f"base {canary.strain[0]:.1f}, adapter {canary.strain[1]:.1f}"),
            *((f"change at '{task}'", f"{change:+.2f}") for task, change in canary.others.items()),
        ]
    facts += [(f"seconds: {step}", f"{seconds:.0f}") for step, seconds in record.seconds.items()]
    tone = {"confirmed": "good", "imagined": "warning", "": "warning", "rolled back": "bad"}[record.state]
    return Section(title, record.fate, tone, facts=tuple(facts))  # type: ignore[arg-type]


def learned_section(title: str, learned: Learned) -> Section:
    """What the models learned, with the figures as they were, as they became, and as they are used."""
    text = (
        f"{learned.episodes} episodes taught ({learned.successes} of them successes); {learned.held_out} of other "
        "resets taught nothing, and measured models as they were and as they are now."
    )
    return Section(
        title,
        text,
        facts=(
            ("better, and used from now on", ", ".join(learned.models) or "nothing"),
            *(("note", words) for words in learned.skipped),
            ("station file", learned.station),
            *((f"seconds: {step}", f"{seconds:.0f}") for step, seconds in learned.seconds.items()),
        ),
        rows=(("figure", "as it was", "after learning", "used from now on"), *_figures(learned)),
    )


def _figures(learned: Learned) -> Iterator[tuple[str, str, str, str]]:
    kept = "the new one" if WORLD_MODEL in learned.models else "the old one"
    then, now = (learned.pictures.get(when, Pictures({})) for when in ("before", "after"))
    for name in now.psnr:
        yield f"pictures at frame {name}, dB", _decimal(then.psnr.get(name), 1), _decimal(now.psnr[name], 1), kept
    yield "action-shuffle ratio", _decimal(then.action_shuffle, 2), _decimal(now.action_shuffle, 2), kept
    for name in sorted({*learned.before, *learned.after}):
        tried = learned.tried or learned.after
        yield f"world model, {name}", _of(learned.before, name), _of(tried, name), _of(learned.after, name)
    for name in sorted({*learned.judges_before, *learned.judges_after}):
        before, after = learned.judges_before.get(name), learned.judges_after.get(name)
        kept = "the new one" if name in learned.models else "the old one"
        yield name, str(before or "-"), str(after or "-"), kept


def _of(figures: Mapping[str, GateFigures], name: str) -> str:
    return str(figures[name]) if name in figures else "not measured"


def _decimal(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seconds(record: RoundRecord) -> float:
    return sum(record.seconds.values())

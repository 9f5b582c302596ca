"""The page of trials in imagination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gymnast_core.evaluation.imagined_parts import Parts
from gymnast_core.evaluation.imagined_result import ImaginedResult, ImaginedRollout, figures
from gymnast_core.reporting.report import Bar, Figure, Section, write_report
from gymnast_core.reward.spending import spent_by
from gymnast_core.run_folder import RunFolder
from gymnast_core.world_model.fidelity import Standing, assess, sampling_of

HEAD = ("instruction", "success", "standard error", "score", "rollouts", "no verdict", "starts")
ORDER = ("failure", "no verdict", "success")
"""Of the films: what went wrong comes first."""
REASONS = 5


def write_imagined_page(
    run: RunFolder, result: ImaginedResult, records: Sequence[ImaginedRollout], parts: Parts, confirmation: str
) -> None:
    """Write report.html. confirmation: what a success had to survive, in words.

    Raises: DataError when a file cannot be written; CheckpointError for a damaged gate.json.
    """
    sections = [_outcome(result, parts), _trust(result, parts, confirmation)]
    abstained = Counter(one.reason for one in records if one.completed is None)
    if abstained:
        facts = tuple((f"{count} times", reason) for reason, count in abstained.most_common(REASONS))
        sections.append(Section("Why there was no verdict", status="warning", facts=facts))
    shown = [one for one in records if one.film]
    for name in result.tasks:
        films = [one for kind in ORDER for one in shown if (one.instruction, one.kind) == (name, kind)]
        if films:
            words = "What the judge saw; the videos lie in media/ under the same names."
            sections.append(Section(f"Films: {name}", words, figures=tuple(_film(one) for one in films)))
    write_report(run.path, f"In imagination: {result.policy}", sections)


def _outcome(result: ImaginedResult, parts: Parts) -> Section:
    rows = [HEAD]
    bars = []
    for name, task in (*result.tasks.items(), ("all", result.overall)):
        score = "-" if task.score is None else f"{task.score:.2f}"
        rows.append((name, *figures(task), score, str(task.rollouts), str(task.abstained), str(task.starts)))
        bars.append(Bar(name[:34], task.success, task.standard_error, task.rollouts))
    how = "greedy" if not result.temperature else f"sampled at temperature {result.temperature:g}"
    text = (
        f"{result.repeats} rollouts of {result.horizon} steps from each of {len(result.starts)} starts, the policy "
        f"{how}. Rollouts without a verdict are left out of success. The standard errors are over starts."
    )
    if not result.complete:
        text = f"{result.done} of {result.planned} rollouts are done. {text}"
    facts = [(name, value) for name, value in result.made_with.items() if value]
    if words := spent_by(parts.judge):
        facts.append(("spent", words))
    status = "" if result.complete else "warning"
    return Section("Success in imagination", text, status, facts=tuple(facts), bars=tuple(bars), rows=tuple(rows))  # type: ignore[arg-type]


def _trust(result: ImaginedResult, parts: Parts, confirmation: str) -> Section:
    standings = {name: standing_of(parts, result.horizon, name, confirmation) for name in result.tasks}
    failed = [f"{name}: {', '.join(one.failed)}" for name, one in standings.items() if one.failed]
    return Section(
        "How far can this be believed?",
        ". ".join(failed) or "The figures of the world model are within the limits of the station file.",
        "warning" if failed else "good",
        facts=tuple((name, one.line) for name, one in standings.items()),
    )


def standing_of(parts: Parts, horizon: int, instruction: str, confirmation: str) -> Standing:
    """What `gymnast world-model evaluate` has found of this world model for an instruction."""
    station = parts.station
    limits = station.config.adaptation
    sampling = sampling_of(station.config.models)
    return assess(station.world_model_folder, sampling, limits, horizon, instruction, confirmation)


def _film(record: ImaginedRollout) -> Figure:
    where = f"{record.source}, rollout {record.repeat + 1}"
    return Figure(f"media/{record.film}.png", f"{record.kind} ({where}): {record.reason[:300]}")

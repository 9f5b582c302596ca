"""The page of trials: success with intervals, differences on the same resets, films of the trials, failures first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gymnast_core.contents import one_line
from gymnast_core.data.episode import FRAMES_FOLDER
from gymnast_core.data.outcome import ABORTED, FAILURE, OUTCOMES, SUCCESS
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import DataError
from gymnast_core.evaluation.comparison import (
    ComparisonPlan,
    ComparisonResult,
    PolicyGap,
    PolicyRate,
    Tried,
    compare,
    in_brackets,
    outcomes_by_reset,
)
from gymnast_core.evaluation.resets import tell_resets
from gymnast_core.evaluation.session import TrialRecord
from gymnast_core.reporting.media import film_strip, write_picture
from gymnast_core.reporting.report import Bar, BarTone, Curve, Figure, Section, Series, write_report
from gymnast_core.sequential_test import PairedTest

SHOWN_FAILURES, SHOWN_OTHERS = 24, 6
"""Films on a page; trials.jsonl names every episode."""
PICTURES = 8
"""Of one film."""
CAP = 1000.0
"""Evidence is drawn up to here."""


def write_comparison_page(run: Path, plan: ComparisonPlan, result: ComparisonResult, tried: Sequence[Tried]) -> Path:
    """Write report.html into `run`. Raises: DataError when it cannot be written."""
    title = "Trials" if len(plan.policies) == 1 else f"Trials of {len(plan.policies)} policies"
    sections = [_found(plan, result, tried), *_evidence(plan, result, tried), *_films(run, tried), _every_trial(tried)]
    return write_report(run, f"{title}: {result.station}", sections, f"run {run.name}")


def write_page_of_one(
    run: Path, station: str, policy: str, task: str, planned: int, records: Sequence[TrialRecord], stopped_by: str = ""
) -> Path:
    """The page of trials of one policy at one task. Raises: DataError when it cannot be written."""
    plan = ComparisonPlan((policy,), (task,), planned)
    tried = [Tried(policy, record) for record in records]
    return write_comparison_page(run, plan, compare(plan, tried, station, str(run), stopped_by), tried)


def _found(plan: ComparisonPlan, result: ComparisonResult, tried: Sequence[Tried]) -> Section:
    facts = [("trials", f"{result.done} of {result.planned}")]
    if result.stopped_by and result.done < result.planned:
        facts.append(("ended early", result.stopped_by))
    facts += [("difference", str(gap)) for gap in result.gaps]
    facts += [(f"what {rate.policy} cost the arm", _cost(rate)) for rate in result.rates if rate.task in _whole(plan)]
    if resets := tell_resets([one.record.reset for one in tried]):
        facts.append(("resets", resets))
    facts += [(f"weights of {name}", weights) for name, weights in result.weights.items() if weights]
    return Section(
        "What was found",
        result.message,
        "good" if result.success else "warning",
        facts=tuple(facts),
        bars=tuple(_bar(rate, plan) for rate in result.rates),
        rows=(
            ("policy", "task", "success", "95 % interval", "over repeats", "not counted", "steps"),
            *(_row(rate) for rate in result.rates),
        ),
    )


def _whole(plan: ComparisonPlan) -> tuple[str, ...]:
    """The task under which a result tells of all trials."""
    return ("",) if len(plan.tasks) > 1 else plan.tasks


def _cost(rate: PolicyRate) -> str:
    return rate.strain.per_trial(rate.trials + rate.uncounted)


def _bar(rate: PolicyRate, plan: ComparisonPlan) -> Bar:
    tone: BarTone = "muted" if rate.policy == plan.policies[0] and len(plan.policies) > 1 else "good"
    label = f"{rate.policy}, {rate.task or 'all tasks'}"
    return Bar(label, rate.rate, rate.standard_error, rate.trials, tone)


def _row(rate: PolicyRate) -> tuple[str, ...]:
    shown = "not measured" if rate.rate is None else f"{rate.successes} of {rate.trials} ({rate.rate:.0%})"
    repeats = "" if rate.repeat_error is None else f"± {rate.repeat_error:.2f}"
    steps = "" if rate.steps is None else f"{rate.steps:.1f}"
    interval = in_brackets(rate.interval, "").strip()
    return rate.policy, rate.task or "all", shown, interval, repeats, str(rate.uncounted), steps


def _evidence(plan: ComparisonPlan, result: ComparisonResult, tried: Sequence[Tried]) -> list[Section]:
    gaps = [gap for gap in result.gaps if gap.task in _whole(plan)]
    if not gaps:
        return []
    needed = 1.0 / plan.alpha_of_one
    return [Section("How the evidence grew", curves=tuple(_curve(gap, tried, needed) for gap in gaps))]


def _curve(gap: PolicyGap, tried: Sequence[Tried], needed: float) -> Curve:
    before, after = (outcomes_by_reset(name, gap.task, tried) for name in (gap.reference, gap.policy))
    pairs = [(before[reset], after[reset]) for reset in before if reset in after]
    tests = [PairedTest.of(gap.alpha, pairs[:count]) for count in range(len(pairs) + 1)]
    x = tuple(float(count) for count in range(len(tests)))
    series = (
        Series("for better", x, tuple(min(test.evidence_better, CAP) for test in tests)),
        Series("for worse", x, tuple(min(test.evidence_worse, CAP) for test in tests)),
        Series("needed", x, tuple(min(needed, CAP) for _ in tests)),
    )
    return Curve(f"Evidence (wealth of a bettor): {gap.policy} against {gap.reference}", "resets", series)


def failures_first(tried: Sequence[Tried]) -> list[Tried]:
    """Failures from resets that another policy succeeded from, other failures, faults and unjudged ones, successes."""
    won = {(one.record.task, one.record.seed) for one in tried if one.record.outcome == SUCCESS}

    def rank(one: Tried) -> int:
        outcome = one.record.outcome
        if outcome == FAILURE:
            return 0 if (one.record.task, one.record.seed) in won else 1
        return 3 if outcome == SUCCESS else 2

    return sorted(tried, key=rank)


def _films(run: Path, tried: Sequence[Tried]) -> list[Section]:
    """A strip of frames for each trial that is shown; episodes that are not on this machine have none."""
    figures: dict[bool, list[Figure]] = {True: [], False: []}
    for one in failures_first(tried):
        good = one.record.outcome == SUCCESS
        room = SHOWN_OTHERS if good else SHOWN_FAILURES
        if len(figures[good]) < room and (figure := _film(run, one)) is not None:
            figures[good].append(figure)
    titles = {False: "Failures, faults and unjudged trials", True: "Successes"}
    return [Section(titles[good], figures=tuple(figures[good])) for good in (False, True) if figures[good]]


def _film(run: Path, one: Tried) -> Figure | None:
    record = one.record
    frames = sorted((Path(record.episode_path) / FRAMES_FOLDER).glob("*.png")) if record.episode_path else []
    if not frames:
        return None
    chosen = np.unique(np.linspace(0, len(frames) - 1, PICTURES).round().astype(int))
    try:
        shown = np.stack([read_image(frames[index]) for index in chosen])
    except (DataError, ValueError):  # a recording that was cut short, or pictures of two sizes
        return None
    name = f"media/trial_{record.trial:05d}.jpg"
    write_picture(run / name, film_strip(shown, PICTURES, 112, record.value))
    return Figure(name, f"{_named(one)}, {record.steps} steps{_said(record)}")


def _named(one: Tried) -> str:
    record = one.record
    return f"{OUTCOMES[record.outcome]}: {one.policy} at {record.task}, seed {record.seed}"


def _said(record: TrialRecord) -> str:
    return f"; {one_line(record.message, 160)}" if record.message else ""


def _every_trial(tried: Sequence[Tried]) -> Section:
    head = ("trial", "policy", "task", "seed", "outcome", "steps", "attempts", "reset", "arm", "said")
    rows: list[tuple[str, ...]] = [head]
    for one in tried:
        record = one.record
        fault = record.message if record.outcome == ABORTED or record.attempts > 1 else ""
        said = "; ".join((*([one_line(fault, 80)] if fault else []), *_reset_said(record)))
        rows.append((
            str(record.trial + 1), one.policy, record.task, str(record.seed), OUTCOMES[record.outcome],
            str(record.steps), str(record.attempts), str(record.reset), str(record.strain), said,
        ))  # fmt: skip
    return Section("Every trial", rows=tuple(rows))


def _reset_said(record: TrialRecord) -> list[str]:
    """Why resets of a trial failed before one did not, and what was seen of the last one."""
    check = [one_line(record.reset.check, 80)] if record.reset.check else []
    return [*(f"reset: {one_line(why, 80)}" for why in record.reset.failures), *check]

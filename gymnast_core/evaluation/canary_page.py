"""The page of canary trials: who won, how the evidence grew, what it cost the arm and the other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gymnast_core.config import CanaryConfig
from gymnast_core.data.outcome import OUTCOMES
from gymnast_core.estimates import success_rate
from gymnast_core.evaluation.canary import CanaryResult, describe_power
from gymnast_core.evaluation.session import TrialRecord
from gymnast_core.files import finite_or_none
from gymnast_core.reporting.report import Bar, BarTone, Curve, Section, Series, write_report
from gymnast_core.sequential_test import PairedTest

CAP = 1000.0
"""Evidence is drawn up to here."""


def write_canary_page(
    run: Path, config: CanaryConfig, result: CanaryResult, pairs: Sequence[tuple[TrialRecord, TrialRecord]]
) -> Path:
    """Write report.html into `run`. pairs: (base, adapter) records. Raises: DataError when it cannot be written."""
    tone = {"confirmed": "good", "rolled back": "bad", "imagined": "warning"}[result.state]
    outcome = Section(
        "What the robot says",
        result.reason,
        tone,  # type: ignore[arg-type]
        facts=(
            ("pairs of trials", f"{result.pairs}, and {result.void} that do not count (a trial aborted or not judged)"),
            ("evidence for better", f"{result.evidence_better:.3g} of {1 / config.alpha:g} needed"),
            ("evidence for worse", f"{result.evidence_worse:.3g} of {1 / config.alpha:g} needed"),
            ("holds and refusals per trial", f"base {result.strain[0]:.1f}, adapter {result.strain[1]:.1f}"),
            ("what the base cost the arm", result.base_arm.per_trial(result.pairs)),
            ("what the adapter cost the arm", result.adapter_arm.per_trial(result.pairs)),
            *((f"change at '{task}'", f"{change:+.2f}") for task, change in result.others.items()),
            ("trials in all", str(result.trials)),
            ("what these trials can find", describe_power(config)),
        ),
        bars=(
            _bar("base", [base for base, _ in pairs], "muted"),
            _bar("adapter", [adapted for _, adapted in pairs], "good"),
        ),
    )
    rows: list[tuple[str, ...]] = [("pair", "seed", "base", "adapter", "base: steps, arm", "adapter: steps, arm")]
    for number, (base, adapted) in enumerate(pairs, 1):
        cost = [f"{record.steps}, {record.strain}" for record in (base, adapted)]
        rows.append((str(number), str(base.seed), OUTCOMES[base.outcome], OUTCOMES[adapted.outcome], *cost))
    evidence = Section("How the evidence grew", curves=(_curve(config, pairs),), rows=tuple(rows))
    return write_report(run, f"Canary trials: {result.adapter}", [outcome, evidence], f"run {run.name}")


def _bar(label: str, records: Sequence[TrialRecord], tone: BarTone) -> Bar:
    rate = success_rate([record.value for record in records])
    return Bar(label, finite_or_none(rate.mean), finite_or_none(rate.standard_error), rate.n, tone)


def _curve(config: CanaryConfig, pairs: Sequence[tuple[TrialRecord, TrialRecord]]) -> Curve:
    values = [(base.value, adapted.value) for base, adapted in pairs]
    tests = [PairedTest.of(config.alpha, values[:count]) for count in range(len(values) + 1)]
    x = tuple(float(count) for count in range(len(tests)))
    return Curve(
        "Evidence (wealth of a bettor)",
        "pairs of trials",
        (
            Series("for better", x, tuple(min(test.evidence_better, CAP) for test in tests)),
            Series("for worse", x, tuple(min(test.evidence_worse, CAP) for test in tests)),
            Series("needed", x, tuple(1.0 / config.alpha for _ in tests)),
        ),
    )

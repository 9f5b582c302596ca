"""What `gymnast judge evaluate` says of a graded judge's threshold: how good, which is best, what to write where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from gymnast_core.config import JudgeConfig
from gymnast_core.data.outcome import Outcome
from gymnast_core.evaluation.judge_config import EvaluateJudgeConfig
from gymnast_core.files import finite_or_none
from gymnast_core.protocols import Verdict
from gymnast_core.reporting.report import Section
from gymnast_core.reward.calibration import FEWEST, Calibration, Criterion, Cut, calibrate
from gymnast_core.station_file import StationFile


def find_threshold(
    verdicts: Sequence[Verdict], outcomes: Sequence[Outcome], criterion: Criterion
) -> Calibration | None:
    """The best threshold by outcomes that are no judge's own word; None where no verdict has a grade."""
    known = [(v, bool(o.success)) for v, o in zip(verdicts, outcomes, strict=True) if not o.judged]
    return calibrate([verdict for verdict, _ in known], [success for _, success in known], criterion)


def threshold_lines(found: Calibration | None, station: StationFile, options: EvaluateJudgeConfig) -> list[str]:
    """For the console; none where the judge has no grades. station: with the judge that was measured."""
    if found is None:
        return []
    failures = found.episodes - found.successes
    lines = [f"grades of {found.episodes} episodes ({found.successes} successes): AUROC {_area(found)}"]
    if found.threshold is None or found.best is None:
        few = min(found.successes, failures) < FEWEST
        why = f"needed {FEWEST} successes and {FEWEST} failures" if few else "all grades are alike"
        return [*lines, f"no threshold was chosen: found {found.successes} and {failures}, {why}"]
    lines.append(f"threshold as it is ({_in_use(station.config.judge)}): {found.now}")
    lines.append(f"threshold {found.threshold:.12g}: {found.best}")
    if math.isfinite(found.elsewhere[0]):
        accuracy, f1 = found.elsewhere
        lines.append(f"on episodes that had no part in choosing it: balanced accuracy {accuracy:.3f}, F1 {f1:.3f}")
    if not found.helps:
        return [*lines, "warning: these grades hardly tell success from failure; take another scale, prompt or judge"]
    if not found.gains:
        return [*lines, "the threshold as it is parts these episodes as well: keep it"]
    return [*lines, f"to use it, write into {station.path}: {_written(found.threshold, station.config.judge, options)}"]


def _written(threshold: float, judge: JudgeConfig, options: EvaluateJudgeConfig) -> str:
    """The line of a station file that sets the threshold."""
    own = f"threshold: {threshold:.12g}"
    if options.checkpoint or (options.gate and judge.kind == "classifier"):  # a folder alone names such a judge
        own = f"kind: classifier, checkpoint: {judge.checkpoint}, {own}"
    return f"adaptation: {{gate_judge: {{{own}}}}}" if options.gate else f"judge: {{{own}}}"


def threshold_section(found: Calibration | None, judge: JudgeConfig) -> list[Section]:
    """The same for the page."""
    if found is None:
        return []
    rows: Sequence[tuple[str, ...]] = (
        ("threshold", "balanced accuracy", "F1", "false positives", "false negatives"),
        _row(f"as it is ({_in_use(judge)})", found.now),
        *((_row(f"{found.threshold:.12g}", found.best),) if found.best is not None else ()),
    )
    facts = [("AUROC of the grades", _area(found)), ("successes", f"{found.successes} of {found.episodes}")]
    if math.isfinite(found.elsewhere[0]):
        accuracy, f1 = found.elsewhere
        facts.append(("on episodes that had no part in choosing it", f"accuracy {accuracy:.3f}, F1 {f1:.3f}"))
    text = "From which grade on an episode counts as completed. Intervals are of 95 %; abstentions are left out."
    return [Section("Threshold", text, "" if found.helps else "warning", facts=tuple(facts), rows=tuple(rows))]


def threshold_facts(found: Calibration | None) -> dict[str, Any]:
    """The same for result.json: None where a figure is undefined."""
    return {} if found is None else {"calibration": _plain(dataclasses.asdict(found) | {"helps": found.helps})}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return finite_or_none(value) if isinstance(value, float) else value


def _in_use(judge: JudgeConfig) -> str:
    return "its own" if judge.threshold is None else f"{judge.threshold:g}"


def _area(found: Calibration) -> str:
    return f"{found.area:.3f} ± {found.area_error:.3f}" if math.isfinite(found.area) else "unknown"


def _row(name: str, cut: Cut) -> tuple[str, ...]:
    (low, high), (lower, upper) = cut.balanced_accuracy_interval, cut.f1_interval
    accuracy = f"{cut.balanced_accuracy:.3f} [{low:.2f}, {high:.2f}]"
    f1 = f"{cut.f1:.3f} [{lower:.2f}, {upper:.2f}]"
    return name, accuracy, f1, str(cut.false_positives), str(cut.false_negatives)

"""The page of `gymnast dyna`: how the figures went over the rounds, and of each round what was used, refused and left
out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gymnast_core.reporting.report import Curve, Section, Series, write_report
from gymnast_core.workflows.dyna_result import DynaResult, DynaRound
from gymnast_core.workflows.learn_result import ALL, GateFigures
from gymnast_core.workflows.practise_page import learned_section, practice_section

HEAD = ("round", "episodes", "left out", "used from now on", "refused", "adapters that act", "seconds")
SHOWN = 200
"""Episodes that were left out and are named on the page; data.json of the round names all."""


def write_dyna_page(folder: Path, result: DynaResult) -> Path:
    """Write report.html into a run folder. Raises: DataError when it cannot be written."""
    sections = [_outcome(result)]
    for one in result.rounds:
        sections.append(learned_section(f"Round {one.number}: what was learned", one.learned))
        for task, record in one.practices.items():
            sections.append(practice_section(f"Round {one.number}: practice, {task}", record))
        sections.append(_data(one))
    return write_report(folder, f"Dyna: {result.station}", sections, f"run {folder.name}")


def _outcome(result: DynaResult) -> Section:
    adapters = tuple((f"adapter that acts, {task}", name) for task, name in result.adapters.items())
    better = any(one.better for one in result.rounds)
    return Section(
        "Outcome",
        result.message,
        "good" if better else "warning",
        facts=(
            ("station", result.station),
            ("rounds", f"{len(result.rounds)} of {result.rounds_allowed}"),
            ("station file with the models that are used now", result.station_file),
            *adapters,
            ("the tree of what was made from what", "`gymnast dyna status`, from lineage.json"),
        ),
        curves=_curves(result.rounds),
        rows=(HEAD, *map(_row, result.rounds)),
    )


def _row(one: DynaRound) -> tuple[str, ...]:
    acting = [task for task, record in one.practices.items() if record.state in ("imagined", "confirmed")]
    return (
        str(one.number),
        f"{one.learned.episodes} teach, {one.learned.held_out} measure ({one.data.new} new)",
        str(len(one.data.left_out)),
        ", ".join(one.learned.models) or "-",
        ", ".join(one.learned.refused) or "-",
        ", ".join(acting) or "-",
        f"{sum(one.seconds.values()):.0f}",
    )


def _curves(rounds: Sequence[DynaRound]) -> tuple[Curve, ...]:
    """The gate over the rounds, of the models as they were used after each."""
    x = tuple(float(one.number) for one in rounds)
    gates = [one.learned.after.get(ALL, GateFigures()) for one in rounds]
    series = (
        Series("agreement with the robot", x, tuple(gate.agreement for gate in gates)),
        Series("bias", x, tuple(gate.bias for gate in gates)),
    )
    return (Curve("The gate, on episodes that taught nothing", "round", series, (-1.0, 1.0)),) if len(x) > 1 else ()


def _data(one: DynaRound) -> Section:
    older = tuple((f"older than the latest, '{task}'", str(count)) for task, count in (one.data.older or {}).items())
    rows = tuple((left.episode, left.why) for left in one.data.left_out[:SHOWN])
    beyond = len(one.data.left_out) - SHOWN
    return Section(
        f"Round {one.number}: the episodes",
        one.data.words,
        facts=(
            *older,
            *((("left out and not named here", str(beyond)),) if beyond > 0 else ()),
            *(("note", words) for words in one.notes),
            *((f"seconds: {step}", f"{seconds:.0f}") for step, seconds in one.seconds.items()),
        ),
        rows=(("left out", "why"), *rows) if rows else (),
    )

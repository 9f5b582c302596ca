"""The page of a soak."""

from __future__ import annotations

from pathlib import Path

from gymnast_core.reporting.report import Section, write_report
from gymnast_core.simulation.faults import fault_table
from gymnast_core.soak import SoakResult, rows_of

MEANING = (
    "Noticed: the arm was held or stopped, the episode ended, or a warning was given; a fault that does no harm must "
    "stop nothing. Held: no target moved afterwards. Recovered: the station worked again when the fault was over; "
    "re-armed: after a stop that a person would have released."
)


def write_soak_page(folder: Path, result: SoakResult) -> Path:
    """Write report.html. Raises: DataError."""
    load = ", ".join(f"{value:.1f}" for value in result.load)
    facts = (
        ("duration", f"{result.minutes:.1f} minutes" + (" (interrupted)" if result.interrupted else "")),
        ("episodes", str(result.episodes)),
        ("actions executed", str(result.actions)),
        ("seed", str(result.seed)),
        ("load of the machine at start and end", load),
    )
    sections = [
        Section("Outcome", MEANING, "good" if result.passed else "bad", facts=facts),
        Section("Faults by kind", rows=tuple(rows_of(result))),
        Section("What each kind is", rows=(("kind", "where", "meaning", "what the station does"), *fault_table())),
    ]
    if result.problems:
        problems = tuple((str(number), text) for number, text in enumerate(result.problems, 1))
        sections.insert(1, Section("Problems", status="bad", facts=problems))
    return write_report(folder, f"Soak of {result.station}", sections, f"run {folder.name}")

"""The page, the table and the scatter of a transfer benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gymnast_core.files import write_bytes
from gymnast_core.reporting.report import Bar, Points, Scatter, Section, write_report
from gymnast_core.reporting.scatter import scatter_svg
from gymnast_core.reporting.tables import markdown
from gymnast_core.run_folder import RunFolder
from gymnast_core.workflows.transfer_result import PracticeRecord, RecipeRow, Stage, TransferResult

TABLE, PICTURE = "table.md", "transfer.svg"
HEAD = (
    "recipe", "practices", "base", "mean", "worst", "below base", "other tasks: mean", "worst", "updates", "seconds",
    "frames captured", "canary trials", "bad adapters", "caught by the gate", "by the canary", "by neither",
    "false roll-backs", "median pairs to decide",
)  # fmt: skip
STAGE_HEAD = (
    "recipe", "who acts", "mean", "worst", "below base", "other tasks: mean", "worst", "hard on the arm, per trial",
)  # fmt: skip
PRACTICE_HEAD = ("recipe", "frames", "seed", "imagined", "real", "other tasks", "updates", "became", "pairs")


def write_transfer_page(run: RunFolder, result: TransferResult, command: str = "") -> None:
    """Write report.html, table.md and media/transfer.svg. Raises: DataError when a file cannot be written."""
    rows = [HEAD, *(_row(row) for row in result.rows)]
    write_bytes(run.path / TABLE, markdown(rows).encode())
    scatter = imagined_against_real(result)
    write_bytes(run.media(PICTURE), scatter_svg(scatter, alone=True).encode())
    sections = [
        _outcome(result, rows),
        Section("Imagined and real success of every adapter", _marks(), scatters=(scatter,)),
        Section("Without gate and canary, and with them", STAGES, rows=(STAGE_HEAD, *_stage_rows(result.rows))),
        Section("What gate and canary caught", facts=tuple(fact for row in result.rows for fact in _caught(row))),
        Section("Practices", rows=(PRACTICE_HEAD, *(_practice(one, result) for one in result.practices))),
    ]
    if result.failed:
        failed = tuple(result.failed.items())
        sections.insert(1, Section("Practices that ended with an error", status="bad", facts=failed))
    write_report(run.path, f"Transfer of practice: {result.task}", sections, command or f"run {Path(run.path).name}")


def in_words(row: RecipeRow) -> str:
    """A recipe in one line."""
    stage = row.acting
    mean, worst = _others(stage)
    caught = f"the gate caught {row.gate_caught}" + (f", the canary {row.canary_caught}" if row.canaries else "")
    return (
        f"{row.recipe}: {row.practices} practices; base {row.base:.2f}, mean {stage.mean:.2f}, worst "
        f"{stage.worst:.2f}, {stage.below_base:.0%} below base; other tasks {mean}, worst {worst}; bad adapters "
        f"{row.bad} of {row.adapters}: {caught}"
    )


def imagined_against_real(result: TransferResult) -> Scatter:
    """Every adapter by its success in imagination and on the station; colours are recipes, marks say what became."""
    kinds = (("dot", "acts"), ("ring", "refused by the gate"), ("cross", "rolled back"))
    points = []
    for number, row in enumerate(result.rows):
        for mark, fate in kinds:
            places = [
                (one.imagined_after, one.trials[result.task].rate.mean)
                for one in result.practices
                if one.recipe == row.recipe and one.adapter and one.imagined_after is not None and _kind(one) == fate
            ]
            if places:
                x, y = zip(*places)
                points.append(Points(f"{row.recipe}, {fate} ({len(places)})", x, y, mark, number))  # type: ignore[arg-type]
    levels = tuple(
        (f"base, {trials[result.task].rate.mean:.2f}", trials[result.task].rate.mean)
        for trials in result.bases.values()
    )
    return Scatter(
        "", "success in imagination, after practice", f"success on {result.resets} resets", tuple(points), levels
    )


STAGES = (
    "As practised: every adapter acts. Gate: those that the gate refused leave the base acting. Canary: those that "
    "were rolled back do, too; this is what a user gets."
)


def _marks() -> str:
    return (
        "Dots act in the end, rings were refused by the gate, crosses were rolled back by the canary. An adapter below "
        "the dashed line is bad: worse than its base on the same resets. On the diagonal imagination is right."
    )


def _kind(practice: PracticeRecord) -> str:
    return "acts" if practice.acts else "rolled back" if practice.accepted else "refused by the gate"


def _outcome(result: TransferResult, rows: Sequence[tuple[str, ...]]) -> Section:
    done = f"{len(result.practices)} of {result.planned} practices are done."
    text = "What acts in the end, after gate and canary, on the same resets as the base."
    bars = []
    for row in result.rows:
        bars.append(Bar(f"{row.recipe}, base"[:34], row.base, row.base_error, result.resets, "muted"))
        bars.append(Bar(row.recipe[:34], row.acting.mean, row.acting.standard_error, row.practices, "good"))
    how = "greedy, as the executor acts" if result.temperature == 0 else f"sampled at {result.temperature:g}"
    changes = [
        (f"{row.recipe} against {result.rows[0].recipe}", f"{row.change:+.3f}{_error(row.change_error)}")
        for row in result.rows[1:]
        if row.change is not None
    ]
    return Section(
        "Outcome",
        text if result.complete else f"{done} {text}",
        "" if result.complete else "warning",
        facts=(
            ("station, task", f"{result.station}, {result.task}"),
            ("trials", f"{result.resets} resets of each task, {how}"),
            ("seeds", f'split "{result.split}": frames, practices and resets share no seed with another split\'s'),
            *changes,
        ),
        bars=tuple(bars),
        rows=tuple(rows),
    )


def _row(row: RecipeRow) -> tuple[str, ...]:
    stage, pairs = row.acting, "-"
    if row.canaries:
        pairs = f"{row.pairs_to_decide:g}" if row.pairs_to_decide is not None else "undecided"
    return (
        row.recipe,
        str(row.practices),
        f"{row.base:.2f} ± {row.base_error:.2f}",
        f"{stage.mean:.2f}{_error(stage.standard_error)}",
        f"{stage.worst:.2f}",
        f"{stage.below_base:.0%}",
        *_others(stage),
        f"{row.updates:.1f}",
        f"{row.seconds:.0f}",
        str(row.frames),
        str(row.canary_trials),
        f"{row.bad} of {row.adapters}",
        f"{row.gate_caught} of {row.bad}",
        f"{row.canary_caught} of {row.bad}" if row.canaries else "-",
        f"{row.caught_by_neither} of {row.bad}",
        f"{row.false_rollbacks} of {row.good}" if row.canaries else "-",
        pairs,
    )


def _stage_rows(rows: Sequence[RecipeRow]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for row in rows:
        for name, stage in (("as practised", row.practised), ("gate", row.gated), ("gate and canary", row.acting)):
            mean = f"{stage.mean:.2f}{_error(stage.standard_error)}"
            share = f"{stage.below_base:.0%}"
            found.append((row.recipe, name, mean, f"{stage.worst:.2f}", share, *_others(stage), f"{stage.strain:+.2f}"))
    return found


def _others(stage: Stage) -> tuple[str, str]:
    if stage.others_mean is None or stage.others_worst is None:
        return "-", "-"
    return f"{stage.others_mean:+.2f}", f"{stage.others_worst:+.2f}"


def _caught(row: RecipeRow) -> list[tuple[str, str]]:
    """What became of a recipe's bad and good adapters, in words."""
    bad = (
        f"{row.bad} of {row.adapters}: the gate caught {row.gate_caught}, the canary {row.canary_caught}, neither "
        f"{row.caught_by_neither}"
    )
    good = f"{row.good} of {row.adapters}: the gate refused {row.refused_good}"
    if row.canaries:
        good += (
            f", the canary rolled back {row.rolled_back_good}, {row.false_rollbacks} of them although no other task "
            "fell and the arm did not suffer"
        )
    facts = [(f"{row.recipe}: bad adapters", bad), (f"{row.recipe}: good ones", good)]
    if row.canaries:
        median = "more than the canaries had" if row.pairs_to_decide is None else f"{row.pairs_to_decide:g}"
        facts.append(
            (f"{row.recipe}: canary", f"median pairs to decide {median}; {row.undecided} of {row.canaries} undecided")
        )
    return facts


def _practice(practice: PracticeRecord, result: TransferResult) -> tuple[str, ...]:
    base, tried = result.bases[practice.base], practice.trials
    before, after = (
        "-" if value is None else f"{value:.2f}" for value in (practice.imagined_before, practice.imagined_after)
    )
    real = f"{base[result.task].rate.mean:.2f} -> {tried[result.task].rate.mean:.2f}" if practice.adapter else "-"
    others = [
        f"{base[name].rate.mean:.2f} -> {tried[name].rate.mean:.2f}"
        for name in base
        if name != result.task and practice.adapter
    ]
    canary = practice.canary
    return (
        practice.recipe,
        str(practice.frame_seed),
        str(practice.seed),
        f"{before} -> {after}",
        real,
        ", ".join(others) or "-",
        f"{practice.updates}, {practice.stopped_by}",
        practice.fate,
        "-" if canary is None else f"{canary.pairs}, {canary.verdict}",
    )


def _error(value: float | None) -> str:
    return "" if value is None else f" ± {value:.2f}"

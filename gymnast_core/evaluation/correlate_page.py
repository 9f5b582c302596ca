"""The page, the tables and the scatter of imagined against real success."""

from __future__ import annotations

from collections.abc import Sequence

from gymnast_core.evaluation.correlate_result import CorrelationResult, CorrelationRow, PolicyPoint
from gymnast_core.files import write_bytes
from gymnast_core.reporting.report import Points, Scatter, Section, write_report
from gymnast_core.reporting.scatter import scatter_svg
from gymnast_core.reporting.tables import markdown
from gymnast_core.run_folder import RunFolder

TABLE, PICTURE = "table.md", "imagined_against_real.svg"
HEAD = (
    "over policies", "policies", "Pearson", "Spearman", "imagined - real", "absolute", "rank violation",
)  # fmt: skip
POLICY_HEAD = (
    "policy", "imagined", "rollouts", "no verdict", "real", "episodes", "imagined - real, same starts", "pairs",
)  # fmt: skip
EXPLAINED = (
    "Each policy is one point. In brackets: the interval that holds 95 of 100 bootstrap samples of the policies. Each "
    "instruction counts equally in 'all'. Absolute: mean size of imagined - real. Rank violation: by how much a policy "
    "is really better than one that imagination puts before it, in the worst case, mean over policies."
)


def write_correlate_page(run: RunFolder, result: CorrelationResult) -> None:
    """Write report.html, table.md and the scatter in media/. Raises: DataError when a file cannot be written."""
    rows, points = [HEAD, *rows_of(result)], [POLICY_HEAD, *(policy_row(one) for one in result.points)]
    write_bytes(run.path / TABLE, f"{markdown(rows)}\n{markdown(points)}".encode())
    scatter = scatter_of("", result.points, result.horizon)
    write_bytes(run.media(PICTURE), scatter_svg(scatter, alone=True).encode())
    status = "warning" if result.warnings else ""
    sections = [
        Section(
            "Does imagination tell which policy is better?",
            ". ".join((*result.warnings, EXPLAINED)),
            status,  # type: ignore[arg-type]
            scatters=(scatter,),
            rows=tuple(rows),
        ),
        Section("Policies", "Success with standard errors.", rows=tuple(points)),
    ]
    for task, found in result.by_task.items() if len(result.by_task) > 1 else ():
        table = (POLICY_HEAD, *(policy_row(one) for one in found))
        sections.append(Section(task, scatters=(scatter_of("", found, result.horizon),), rows=table))
    write_report(run.path, "Imagined against real success", sections)


def rows_of(result: CorrelationResult) -> list[tuple[str, ...]]:
    """The table over policies, without its head."""
    return [_row("all", result.overall), *(_row(name, row) for name, row in result.tasks.items())]


def in_words(result: CorrelationResult) -> list[str]:
    """A line for each row of the table over policies."""
    return [
        f"{name}, {count} policies: Pearson {pearson}, Spearman {spearman}; imagined - real {error}, absolute {size}, "
        f"rank violation {violation}"
        for name, count, pearson, spearman, error, size, violation in rows_of(result)
    ]


def policy_row(point: PolicyPoint) -> tuple[str, ...]:
    """A policy in the table of policies."""
    difference = "-"
    if point.difference is not None:
        difference = _signed(point.difference, point.difference_error)
    return (
        point.policy,
        f"{point.imagined:.2f} ± {point.imagined_error:.2f}",
        str(point.rollouts),
        str(point.abstained),
        f"{point.real:.2f} ± {point.real_error:.2f}",
        str(point.episodes),
        difference,
        str(point.pairs),
    )


def scatter_of(title: str, points: Sequence[PolicyPoint], horizon: int) -> Scatter:
    """Every policy by its success in imagination and really, with standard errors."""
    return Scatter(
        title,
        f"success in imagination, {horizon} steps",
        "real success within as many steps",
        tuple(
            Points(
                f"{one.policy} ({one.imagined:.2f}, {one.real:.2f})"[:44],
                (one.imagined,),
                (one.real,),
                ("dot", "ring", "cross")[number // 5 % 3],  # type: ignore[arg-type]
                number,
                (one.imagined_error,),
                (one.real_error,),
            )
            for number, one in enumerate(points)
        ),
    )


def _row(name: str, row: CorrelationRow) -> tuple[str, ...]:
    size, violation = ("-" if value is None else f"{value:.2f}" for value in (row.absolute_error, row.rank_violation))
    error = "-" if row.error is None else _signed(row.error, row.error_error)
    return (name, str(row.policies), str(row.pearson), str(row.spearman), error, size, violation)


def _signed(value: float, error: float | None) -> str:
    return f"{value:+.2f}" + ("" if error is None else f" ± {error:.2f}")

"""Tables for documents."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown; the first row is its head."""
    head, *body = [" | ".join(cell.replace("|", "/") for cell in row) for row in rows]
    return "\n".join([f"| {head} |", "|" + "---|" * len(rows[0]), *(f"| {line} |" for line in body)]) + "\n"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal; all rows of one length, columns as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

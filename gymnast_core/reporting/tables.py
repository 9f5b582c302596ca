"""Tables for documents."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown; the first row is its head."""
    head, *body = [" | ".join(cell.replace("|", "/") for cell in row) for row in rows]
    return "\n".join([f"| {head} |", "|" + "---|" * len(rows[0]), *(f"| {line} |" for line in body)]) + "\n"

"""Options of a command line, some of them in the place of others: none may stand twice."""

from __future__ import annotations

from collections.abc import Sequence


def in_place(words: Sequence[object], more: Sequence[object]) -> list[str]:
    """`words` with the options of `more`; those that stand in both, with their values, are taken from `more`."""
    kept: list[str] = []
    leaving = False
    for word in map(str, words):
        if word.startswith("--"):
            leaving = word in map(str, more)
        if not leaving:
            kept.append(word)
    return [*kept, *map(str, more)]

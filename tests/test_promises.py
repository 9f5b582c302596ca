"""Every promise of the table in docs/how-to/real_station.md is kept by a test that it names."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "how-to" / "real_station.md"


def test_every_row_of_the_table_of_promises_names_a_test_that_exists() -> None:
    table = itertools.dropwhile(lambda line: not line.startswith("|"), PAGE.read_text(encoding="utf-8").splitlines())
    rows = [line.split("|")[1:-1] for line in itertools.takewhile(lambda line: line.startswith("|"), table)]
    head, rows = rows[0], rows[2:]
    assert "tests" in head[-1] and len(rows) >= 15
    functions = {
        node.name
        for path in TESTS.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for row in rows:
        assert len(row) == len(head), row
        named = re.findall(r"`(test_\w+)`", row[-1])
        assert named and set(named) <= functions, f"{row[0].strip()}: {row[-1].strip() or 'no test'}"

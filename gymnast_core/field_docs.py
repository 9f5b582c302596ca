"""What the source says of the fields of a dataclass: the text below each one, which is its help."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any


def field_docs(config: type[Any]) -> dict[str, str]:
    """The docstring below each field, on one line, by the field's name; those of base classes too.

    Fields without one are left out.
    """
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[union-attr, attr-defined]
    return found

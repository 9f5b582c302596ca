"""JSON that means what was written: a name that stands twice in one object is refused with both lines.

Python's reader keeps the last of them in silence.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from gymnast_core.errors import DataError, DocumentError, TwiceError

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, strict: every error is a DocumentError, which is a ValueError.

    Raises: DocumentError, also for too many digits, too deep a nesting, and bytes that are not UTF-8.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_once)
    except _NameTwice as error:
        raise TwiceError(_both_lines(str(text), error.name)) from error
    except RecursionError as error:
        raise DocumentError("nested too deeply") from error
    except ValueError as error:
        raise DocumentError(str(error)) from error


def flat_object(text: str, name: str) -> dict[str, Any]:
    """A JSON object of plain values from outside; empty text is an empty one.

    Raises: DataError, led by `name`, also for NaN and infinity, which are no JSON.
    """
    if not text:
        return {}
    try:
        value = parse_json(text)
    except DocumentError as error:
        raise DataError(f"{name}: not JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict) or any(isinstance(inner, (dict, list)) for inner in value.values()):
        raise DataError(f"{name}: needed a flat JSON object")
    for key, inner in value.items():
        if isinstance(inner, float) and not math.isfinite(inner):
            raise DataError(f"{name}: {key[:80]!r} is {inner}, which is no JSON number")
    return value


class _NameTwice(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _NameTwice(name)
            seen.add(name)
    return content


def _both_lines(text: str, name: str) -> str:
    """Where `name` stands twice in one object; the text is whole JSON up to there."""
    objects: list[dict[str, int]] = []
    lists: list[bool] = []
    line, end = 1, 0
    tokens = list(TOKEN.finditer(text))
    for token, after in zip(tokens, [*tokens[1:], None]):
        line += text.count("\n", end, token.start())
        end = token.start()
        mark = token.group()
        if mark in "{[":
            lists.append(mark == "[")
            objects.append({})
        elif mark in "}]":
            lists.pop()
            objects.pop()
        elif mark[0] == '"' and after is not None and after.group() == ":" and not lists[-1]:
            key = json.loads(mark)
            if key == name and key in objects[-1]:
                first = objects[-1][key]
                where = f"lines {first} and {line}" if first != line else f"line {line}"
                return f"{name[:80]!r} stands there twice ({where})"
            objects[-1][key] = line
    return f"{name[:80]!r} stands there twice"

"""The fields of a config dataclass as a Markdown table: type, range, unit and default from the code, text from its
docstrings."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gymnast_core.field_docs import field_docs
from gymnast_core.units import Unit

Titles = Mapping[Any, str]
NO_TITLES: Titles = {}
HUGE = 1e15
"""A bound beyond it, as that of seeds, limits nobody."""
PLAIN = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
}


def what_it_takes(kind: Any, titles: Titles = NO_TITLES) -> str:
    """The values of an annotated type, in words: "number, above 0, at most 50". titles: headings of sections."""
    if get_origin(kind) is Annotated:
        base, *more = get_args(kind)
        return ", ".join([what_it_takes(base, titles), *_limits(more)])
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join("empty" if part is type(None) else what_it_takes(part, titles) for part in arguments)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if get_origin(kind) is dict:
        return f"by name: {what_it_takes(arguments[1], titles)}"
    if get_origin(kind) in (tuple, list):
        if arguments[-1] is Ellipsis or len(arguments) == 1:
            return f"list: {what_it_takes(arguments[0], titles)}"
        return _several([what_it_takes(part, titles) for part in arguments])
    if dataclasses.is_dataclass(kind):
        return f"section, [below](#{anchor(titles.get(kind, ''))})"
    return PLAIN.get(kind, "path" if getattr(kind, "__name__", "") == "Path" else str(kind))


def anchor(title: str) -> str:
    """Where a link to a heading leads, as GitHub and others make it: without dots."""
    return title.lower().replace(".", "")


def _several(parts: list[str]) -> str:
    if len(set(parts)) == 1:
        return f"{len(parts)} values, each: {parts[0]}"
    return f"{len(parts)} values: " + "; ".join(parts)


def _limits(more: Iterable[Any]) -> list[str]:
    """What pydantic and our units say beside a type."""
    found = []
    for meta in more:
        for part in getattr(meta, "metadata", ()):
            words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
            bounds = {name: getattr(part, name) for name in words if hasattr(part, name)}
            found += [f"{words[name]} {bound:g}" for name, bound in bounds.items() if bound < HUGE]
            if getattr(part, "min_length", None):
                found.append(f"at least {part.min_length} long" if part.min_length > 1 else "not empty")
            if getattr(part, "max_length", None):
                found.append(f"at most {part.max_length} long")
        if isinstance(meta, Unit):
            found.append(meta.name)
    return found


def default_of(field: dataclasses.Field[Any]) -> str:
    """A field's default as a YAML file has it; "required" where it has none, empty for a section."""
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return "" if dataclasses.is_dataclass(made) else f"`{json.dumps(made)}`"
    if field.default is dataclasses.MISSING:
        return "required"
    return "" if field.default is None else f"`{json.dumps(_plain(field.default))}`"


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, list, tuple, type(None))) else str(value)


def field_table(config: type[Any], titles: Titles) -> list[str]:
    """Markdown lines: one row for each field. titles: headings of sections.

    Raises: ValueError naming fields that have no docstring.
    """
    hints, docs = get_type_hints(config, include_extras=True), field_docs(config)
    bare = [field.name for field in dataclasses.fields(config) if not docs.get(field.name)]
    if bare:
        raise ValueError(f"{config.__module__}.{config.__name__}: no docstring below {', '.join(bare)}")
    rows = [("field", "takes", "default", "meaning"), ("---",) * 4]
    rows += [
        (f"`{field.name}`", what_it_takes(hints[field.name], titles), default_of(field), docs[field.name])
        for field in dataclasses.fields(config)
    ]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]

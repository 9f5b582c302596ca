"""The unit of a setting, so that a value in another one is called by its name: degrees, millimetres, milliseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

PLAUSIBLE = 0.005
"""A value is taken for one of another unit when it is, in the field's own, at least this share of the bound."""


@dataclass(frozen=True)
class Unit:
    """name: of the field's unit. others: (name, factor to the field's unit) of what people write by mistake."""

    name: str
    others: tuple[tuple[str, float], ...]


METRES = Unit("metres", (("millimetres", 1e-3), ("centimetres", 1e-2)))
RADIANS = Unit("radians", (("degrees", math.pi / 180),))
RADIANS_A_SECOND = Unit("radians a second", (("degrees a second", math.pi / 180),))
SECONDS = Unit("seconds", (("milliseconds", 1e-3),))
MILLISECONDS = Unit("milliseconds", (("seconds", 1e3),))
MILLIAMPERES = Unit("milliamperes", (("amperes", 1e3),))


def unit_hint(field: Any, value: Any) -> str:
    """What to add to the error of a field (its annotated type) that `value` does not fit: its unit, and what the value
    would be in another one; empty for a field without a unit."""
    unit = next((part for part in get_args(field)[1:] if isinstance(part, Unit)), None)
    if get_origin(field) is not Annotated or unit is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f" ({unit.name})"
    readings = []
    for name, factor in unit.others:
        converted: float = float(f"{value * factor:.3g}")
        if _fits(field, converted):
            readings.append(f"{name}, which are {converted:g} {unit.name}")
    looks = f"; {value:g} looks like {', or '.join(readings)}" if readings else ""
    return f" ({unit.name}){looks}"


def _fits(field: Any, value: float) -> bool:
    bounds = [
        getattr(part, name)
        for meta in get_args(field)[1:]
        for part in getattr(meta, "metadata", ())
        for name in ("le", "lt")
        if hasattr(part, name)
    ]
    if bounds and abs(value) < PLAUSIBLE * min(bounds):
        return False
    try:
        TypeAdapter(field).validate_python(value)
    except ValidationError:
        return False
    return True

"""Practice over a policy server's wires: what a client may ask for, and how a practice stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gymnast_core.config import Coordinate, Positive, Seed, parse_config
from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy.names import ADAPTER

MOST_PICTURES = 16
"""Of one client to practise from; the oldest leave first."""
NO_PRACTICE = "this client has asked for no practice"


@dataclass(frozen=True)
class PractiseRequest:
    """What a client may say of a practice. None: as the station file says."""

    instruction: Annotated[str, Field(min_length=1, max_length=500)]
    iterations: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """At most this many updates."""
    seconds: Positive | None = None
    """Training takes at most this long; no longer than the station file says."""
    position: tuple[Coordinate, Coordinate, Coordinate] | None = None
    """Where the end effector is in the captured pictures: x y z, metres, base frame."""
    seed: Seed = 0


@dataclass(frozen=True)
class PracticeNow:
    """How a practice stands. state: "running", "accepted" (by the gate: act with `adapter`), "refused" (the base is
    kept), "failed" or "cancelled". success_before, success_after: in imagination, 0 to 1."""

    state: Literal["running", "accepted", "refused", "failed", "cancelled"]
    phase: str = ""
    iteration: int = 0
    iterations: int = 0
    seconds_left: float | None = None
    adapter: str = ""
    success_before: float | None = None
    success_after: float | None = None
    message: str = ""


def read_practice(content: Mapping[Any, Any], where: str) -> PracticeNow:
    """How a practice stands, of a server's answer; fields of later versions are passed over.

    Raises: DataError naming `where` and the field that is wrong.
    """
    names = {field.name for field in dataclasses.fields(PracticeNow)}
    try:
        now = parse_config(PracticeNow, {str(name): content[name] for name in content if name in names}, where)
    except ConfigError as error:
        raise DataError(str(error)) from error
    if now.adapter and not ADAPTER.fullmatch(now.adapter):
        raise DataError(f"{where}: adapter: found {now.adapter[:60]!r}, which is no adapter's name")
    phase, message = (one_line(text, 300) for text in (now.phase, now.message))
    return dataclasses.replace(now, phase=phase, message=message)

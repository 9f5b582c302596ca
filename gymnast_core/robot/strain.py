"""What a policy costs the arm: holds, refused and clipped actions, and the load of its motors; by step and in sums."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnast_core.data.episode import STEPS_FILE
from gymnast_core.errors import DataError
from gymnast_core.files import is_number, read_json_lines
from gymnast_core.robot.safety import LEAVES_ENVELOPE, MALFORMED, NOT_FINITE, UNREACHABLE

OVERLOAD, JAMMED = "overload", "jammed"
"""Kinds of holds that come from pushing (`gymnast_core.robot.guard`); the others say that something is broken."""
HOLDING = "holding:"
"""Before a hold's kind, among the names of events."""
SMALLER = ("_clipped", "_limited")
"""How the names of events end that let a smaller action through; after any other event nothing was executed."""
HARD_ON_THE_ARM = frozenset(
    {HOLDING + OVERLOAD, HOLDING + JAMMED, OVERLOAD, UNREACHABLE, LEAVES_ENVELOPE, MALFORMED, NOT_FINITE}
)
"""Holds and refusals that are the policy's doing, not the station's (stale commands, a silent driver)."""


@dataclass(frozen=True)
class StepStrain:
    """What one step cost. events: the safety envelope's interventions and refusals, by name. holds: kinds of the faults
    that held or stopped the arm before the next action. load: largest share of its allowed effort that a joint took
    meanwhile (1: it is held for more), NaN where nobody measured."""

    events: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    load: float = math.nan

    @property
    def names(self) -> list[str]:
        """Events and holds, the latter as "holding:KIND"."""
        return [*self.events, *(HOLDING + kind for kind in self.holds)]


@dataclass(frozen=True)
class ArmStrain:
    """What some steps cost in all. holds: times that a fault held or stopped the arm. refused: actions that were not
    executed. clipped: actions that were executed smaller. peak_load: see `StepStrain.load`; None where not measured."""

    holds: int = 0
    refused: int = 0
    clipped: int = 0
    peak_load: float | None = None

    @classmethod
    def of(cls, steps: Iterable[StepStrain]) -> ArmStrain:
        """The sum of steps."""
        holds = refused = clipped = 0
        loads = []
        for step in steps:
            holds += len(step.holds)
            smaller = [event for event in step.events if event.endswith(SMALLER)]
            refused += len(smaller) < len(step.events)
            clipped += bool(smaller) and len(smaller) == len(step.events)
            loads.append(step.load)
        return cls(holds, refused, clipped, max(filter(math.isfinite, loads), default=None))

    def __add__(self, other: ArmStrain) -> ArmStrain:
        loads = [load for load in (self.peak_load, other.peak_load) if load is not None]
        return ArmStrain(
            self.holds + other.holds,
            self.refused + other.refused,
            self.clipped + other.clipped,
            max(loads, default=None),
        )

    def __str__(self) -> str:
        return f"{self.holds} holds, {self.refused} refused, {self.clipped} clipped, peak load {self.load}"

    @property
    def load(self) -> str:
        """The peak load, for people."""
        return "not measured" if self.peak_load is None else f"{self.peak_load:.0%}"

    def per_trial(self, trials: int) -> str:
        """For people: "0.2 holds, 1.0 refused and 3.5 clipped actions per trial, peak load 104 %"."""
        if not trials:
            return "no trial"
        return (
            f"{self.holds / trials:.1f} holds, {self.refused / trials:.1f} refused and {self.clipped / trials:.1f} "
            f"clipped actions per trial, peak load {self.load}"
        )


def total(strains: Iterable[ArmStrain]) -> ArmStrain:
    """The sum of several."""
    return sum(strains, ArmStrain())


def count_events(steps: Iterable[StepStrain]) -> dict[str, int]:
    """How often each event and hold happened, by name."""
    return dict(Counter(name for step in steps for name in step.names))


def hard_events(events: Mapping[str, int]) -> int:
    """How many of these events are holds and refusals that are the policy's doing."""
    return sum(count for name, count in events.items() if name in HARD_ON_THE_ARM)


def read_strain(folder: str | os.PathLike[str]) -> list[StepStrain]:
    """What each step of an episode folder cost; empty where there are no steps. Episodes logged without holds and load
    have none.

    Raises: DataError naming a step whose fields are not what they should be.
    """
    path = Path(folder) / STEPS_FILE
    return [_read_step(line, f"{path}: step {line['step']}") for line in read_json_lines(path) if "step" in line]


def _read_step(line: Mapping[str, Any], where: str) -> StepStrain:
    load = line.get("load")
    if load is not None and not (is_number(load) and 0.0 <= load < math.inf):
        raise DataError(f"{where}: load: found {load!r:.40}, needed a number from 0, or null")
    events, holds = (_names(line.get(field), f"{where}: {field}") for field in ("safety_events", "holds"))
    return StepStrain(events, holds, math.nan if load is None else float(load))


def _names(found: Any, where: str) -> tuple[str, ...]:
    if found is None:
        return ()
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{where}: found {found!r:.40}, needed a list of names")
    return tuple(found)

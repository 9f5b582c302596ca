"""What the console's buttons ask for: one dataclass for each, read from a request's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

TaskText = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$")]
Count = Annotated[int, Field(ge=0, le=100_000)]
SeedNumber = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class StopOrder:
    """The emergency stop."""

    reason: Annotated[str, Field(max_length=200)] = "the console's stop button"


@dataclass(frozen=True)
class RearmOrder:
    """Release the stop. confirm: what the first request was answered with; the stop is released by a second one."""

    confirm: Annotated[str, Field(max_length=100)] = ""


@dataclass(frozen=True)
class PractiseOrder:
    """Practise a task in imagination, from the scene as it is or after a reset.

    execute: run an episode with what was learned. iterations, canary_trials: 0 as the station file says.
    """

    task: TaskText
    reset: bool = False
    execute: bool = True
    iterations: Count = 0
    canary_trials: Annotated[int, Field(ge=0, le=1000)] = 0
    seed: SeedNumber = 0


@dataclass(frozen=True)
class RunOrder:
    """Run a policy. trials: 0 for one episode from the scene as it is, else this many trials, each after a reset."""

    task: TaskText
    policy: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]*$")] = "base"
    trials: Annotated[int, Field(ge=0, le=1000)] = 0
    seed: SeedNumber = 0


@dataclass(frozen=True)
class ResetOrder:
    """Bring the arm to its start, and where a task is named the scene as well."""

    task: TaskText = ""
    seed: SeedNumber = 0


@dataclass(frozen=True)
class AnswerOrder:
    """A person has done what was asked. question: the one that the page showed, so that no other is answered."""

    question: Annotated[str, Field(max_length=2000)]


@dataclass(frozen=True)
class NoOrder:
    """A button that says everything by itself."""

"""What the console knows of its station at one moment, and whoever can act on it: the line between page and ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from gymnast_core.serve.console.orders import (
    AnswerOrder,
    PractiseOrder,
    ResetOrder,
    RunOrder,
)
from gymnast_core.status import StationStatus

View = Literal["camera", "policy"]
"""The camera's frames as they come, or the very picture that the policy is given."""


@dataclass(frozen=True)
class ArmDetail:
    """More of the arm than `ArmNow` holds. target: (3,) commanded position, metres, base frame. load: (6,) of the
    joints, share of what is allowed, None where the driver reports none. joints: their names."""

    target: tuple[float, ...] = ()
    load: tuple[float | None, ...] = ()
    joints: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkNow:
    """A long action under way. kind: "practise", "adapt", "run" or "trials". iteration, iterations: updates made and
    planned. trial, trials: the same of trials, from 0. mean_reward, usable_groups: of the last update, 0 to 1.
    seconds_left: of practice. age_s: since it was last heard of."""

    kind: str
    phase: str = ""
    iteration: int = 0
    iterations: int = 0
    trial: int = 0
    trials: int = 0
    successes: int = 0
    step: int = 0
    mean_reward: float | None = None
    usable_groups: float | None = None
    seconds_left: float | None = None
    age_s: float = 0.0


@dataclass(frozen=True)
class CameraNow:
    """number: of the newest picture, 0 before the first; age_s: since it arrived; rate_hz: as the camera node says."""

    number: int = 0
    age_s: float | None = None
    rate_hz: float | None = None


@dataclass(frozen=True)
class Said:
    """A line for people. at: seconds since 1970. tone: how it is shown."""

    at: float
    text: str
    tone: Literal["plain", "good", "bad"] = "plain"


@dataclass(frozen=True)
class Snapshot:
    """What was heard up to now. question: what a person is asked to do, empty where nothing waits for one.
    temperatures: of the motors, degrees Celsius, by name. heard_s: since anything was heard of the graph, None where
    nothing was."""

    status: StationStatus = field(default_factory=StationStatus)
    arm: ArmDetail = field(default_factory=ArmDetail)
    camera: CameraNow = field(default_factory=CameraNow)
    work: tuple[WorkNow, ...] = ()
    question: str = ""
    temperatures: dict[str, float] = field(default_factory=dict)
    said: tuple[Said, ...] = ()
    heard_s: float | None = None


class Robot(Protocol):
    """The station as the console sees it. Every deed returns words for people, once it has begun or is done; it raises
    a GymnastError that says why not. Methods are called from several threads."""

    def snapshot(self) -> Snapshot:
        """What was heard up to now; at no cost."""
        ...

    def picture(self, view: View) -> tuple[int, bytes] | None:
        """Number and JPEG of the newest picture; None before the first. Asking for a view keeps it coming."""
        ...

    def stop(self, reason: str) -> str:
        """The emergency stop."""
        ...

    def rearm(self) -> str:
        """Release the stop; whoever calls has looked at the arm."""
        ...

    def capture(self) -> str:
        """Keep a fresh frame in a file."""
        ...

    def practise(self, order: PractiseOrder) -> str: ...

    def run(self, order: RunOrder) -> str: ...

    def reset(self, order: ResetOrder) -> str: ...

    def cancel(self) -> str:
        """End whatever long action is under way, whoever began it."""
        ...

    def answer(self, order: AnswerOrder) -> str:
        """A person has done what was asked."""
        ...

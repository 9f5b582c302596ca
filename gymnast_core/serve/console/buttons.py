"""The buttons of the console: each reads its order, and does it on the station. Re-arming asks twice."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from gymnast_core.config import StationConfig, parse_config
from gymnast_core.errors import ConfigError
from gymnast_core.serve.console.orders import (
    AnswerOrder,
    NoOrder,
    PractiseOrder,
    RearmOrder,
    ResetOrder,
    RunOrder,
    StopOrder,
)
from gymnast_core.serve.console.snapshot import Robot

STOP = "stop"
CONFIRM_S = 30.0
"""A first request to re-arm counts for this long."""
LOOK = "look at the arm: nobody within its reach, nothing jammed? Confirm to re-arm."


class Buttons:
    """The buttons of one station. Raises of every press: GymnastError, which says why nothing was done."""

    def __init__(self, robot: Robot, station: StationConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._robot, self._station, self._clock = robot, station, clock
        self._asked: dict[str, float] = {}
        """Confirmations that were handed out, by when they end to count."""
        self._deeds: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
            STOP: self._stop,
            "rearm": self._rearm,
            "capture": self._capture,
            "practise": self._practise,
            "run": self._run,
            "reset": self._reset,
            "cancel": self._cancel,
            "answer": self._answer,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of all buttons."""
        return tuple(self._deeds)

    def press(self, name: str, content: Mapping[str, Any]) -> dict[str, str]:
        """Do what a button asks for: {"message": words}, and for a first request to re-arm {"confirm": text} too."""
        return self._deeds[name](content)

    def _stop(self, content: Mapping[str, Any]) -> dict[str, str]:
        return {"message": self._robot.stop(parse_config(StopOrder, content, "stop").reason)}

    def _rearm(self, content: Mapping[str, Any]) -> dict[str, str]:
        order, now = parse_config(RearmOrder, content, "rearm"), self._clock()
        self._asked = {text: end for text, end in self._asked.items() if end > now}
        if not order.confirm:
            text = secrets.token_urlsafe(8)
            self._asked[text] = now + CONFIRM_S
            return {"message": LOOK, "confirm": text}
        if self._asked.pop(order.confirm, None) is None:
            raise ConfigError("rearm: this confirmation counts no more; press the button again")
        return {"message": self._robot.rearm()}

    def _capture(self, content: Mapping[str, Any]) -> dict[str, str]:
        parse_config(NoOrder, content, "capture")
        return {"message": self._robot.capture()}

    def _practise(self, content: Mapping[str, Any]) -> dict[str, str]:
        order = parse_config(PractiseOrder, content, "practise")
        self._station.task(order.task)
        return {"message": self._robot.practise(order)}

    def _run(self, content: Mapping[str, Any]) -> dict[str, str]:
        order = parse_config(RunOrder, content, "run")
        self._station.task(order.task)
        return {"message": self._robot.run(order)}

    def _reset(self, content: Mapping[str, Any]) -> dict[str, str]:
        order = parse_config(ResetOrder, content, "reset")
        if order.task:
            self._station.task(order.task)
        return {"message": self._robot.reset(order)}

    def _cancel(self, content: Mapping[str, Any]) -> dict[str, str]:
        parse_config(NoOrder, content, "cancel")
        return {"message": self._robot.cancel()}

    def _answer(self, content: Mapping[str, Any]) -> dict[str, str]:
        return {"message": self._robot.answer(parse_config(AnswerOrder, content, "answer"))}

"""The motors' error registers and temperatures, read while the arm is at work: one request at a time, never waited
for."""

from __future__ import annotations

import collections
import time

from gymnast_nodes.driver import MOTORS, SHADOWS, motor_errors
from gymnast_nodes.driver_link import DriverLink, PendingRead

REGISTER = "Hardware_Error_Status"
PERIOD_S = 0.3
"""One of three reads at a time (the group, and either shadow, which the group's read misses): all within 1 s."""
AGAIN_S = 0.05
CONFIRM = 3
"""A motor counts as failing that leaves this many reads in a row without an answer while another motor answers."""
LOST_S = 2.0
WARMTH = "Present_Temperature"
WARMTH_S = 10.0
"""How often the temperatures of all motors are read."""


class MotorWatch:
    """Says which motor fails. `look` is called often, from the node's own thread, while the arm is active."""

    def __init__(self, link: DriverLink) -> None:
        self._link = link
        self._round = collections.deque([("group", "all"), *(("single", name) for name in SHADOWS)])
        self._asked: tuple[str, str] = self._round[0]
        self._register = REGISTER
        self._warm_left: list[tuple[str, str]] = []
        """Whose temperatures are still to be read this time."""
        self._warm_due = 0.0
        self.temperatures: dict[str, int] = {}
        """Degrees Celsius, by motor, as last read."""
        self._answer: PendingRead | None = None
        self._asked_at = 0.0
        self._due = 0.0
        self._suspect = ""
        self._unanswered = 0
        self.fault = ""
        """What a motor reports, for people; empty: all is well, as far as the driver says."""

    def reset(self) -> None:
        """The motors were checked otherwise."""
        self._suspect, self._unanswered, self.fault = "", 0, ""
        if self._answer is not None:
            self._answer.give_up()
            self._answer = None

    def look(self) -> str:
        """Take the answer that came, ask for the next when it is due; returns `fault`."""
        now = time.monotonic()
        if self._answer is not None:
            values = self._answer.values()
            if values is not None:
                self._answer, self._due = None, now + (AGAIN_S if self._register == WARMTH else PERIOD_S)
                self._take(values, now)
            elif now - self._asked_at > LOST_S:
                self.reset()
        elif now >= self._due:
            self._register, self._asked, self._asked_at = *self._next(now), now
            self._answer = self._link.start_read(*self._asked, self._register)
        return self.fault

    def _next(self, now: float) -> tuple[str, tuple[str, str]]:
        """Register, and whose."""
        if self._suspect and self._unanswered < CONFIRM:
            return REGISTER, ("single", self._suspect)
        if self._suspect:  # does the bus work at all?
            return REGISTER, ("single", MOTORS[0] if self._suspect != MOTORS[0] else MOTORS[-1])
        if now >= self._warm_due:
            self._warm_due, self._warm_left = now + WARMTH_S, list(self._round)
        if self._warm_left and self._register == REGISTER:  # an error register is read next, at once
            return WARMTH, self._warm_left.pop()
        self._round.rotate(-1)
        return REGISTER, self._round[0]

    def _take(self, values: list[int], now: float) -> None:
        kind, name = self._asked
        names = MOTORS if kind == "group" else (name,)
        if self._register == WARMTH:
            if len(values) == len(names):
                self.temperatures.update(zip(names, values))
            return
        failing = {one: motor_errors(value) for one, value in zip(names, values) if value}
        if failing:
            self.fault = "; ".join(f"{one}: {what}" for one, what in failing.items())
        elif self._suspect and name == self._suspect:
            self._due = now + AGAIN_S
            self._unanswered += 1
            if values:
                self._suspect = ""
        elif self._suspect:
            if values:
                self.fault = f"{self._suspect}: does not answer"  # a motor with an alert answers no reads
            self._suspect = ""
        elif len(values) < len(names):
            self._suspect, self._unanswered, self._due = names[len(values)], 1, now + AGAIN_S

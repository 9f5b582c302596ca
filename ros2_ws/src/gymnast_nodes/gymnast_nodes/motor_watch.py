"""The motors' error registers, read while the arm is at work: one request at a time, never waited for."""

from __future__ import annotations

import collections
import time

from gymnast_core.robot.arm_model import ArmModel
from gymnast_nodes.driver import motor_errors
from gymnast_nodes.driver_link import DriverLink, PendingRead

REGISTER = "Hardware_Error_Status"
PERIOD_S = 0.3
"""One of three reads at a time (the group, and either shadow, which the group's read misses): all within 1 s."""
AGAIN_S = 0.05
CONFIRM = 3
"""A motor counts as failing that leaves this many reads in a row without an answer while another motor answers."""
LOST_S = 2.0


class MotorWatch:
    """Says which motor fails. `look` is called often, from the node's own thread, while the arm is active."""

    def __init__(self, link: DriverLink, arm: ArmModel) -> None:
        self._link = link
        self._motors = arm.motors
        self._round = collections.deque([("group", "all"), *(("single", name) for name in arm.shadows)])
        self._asked: tuple[str, str] = self._round[0]
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
                self._answer, self._due = None, now + PERIOD_S
                self._take(values, now)
            elif now - self._asked_at > LOST_S:
                self.reset()
        elif now >= self._due:
            kind, name = self._next()
            self._answer = self._link.start_read(kind, name, REGISTER)
            self._asked, self._asked_at = (kind, name), now
        return self.fault

    def _next(self) -> tuple[str, str]:
        if self._suspect and self._unanswered < CONFIRM:
            return "single", self._suspect
        if self._suspect:  # does the bus work at all?
            return "single", self._motors[0] if self._suspect != self._motors[0] else self._motors[-1]
        self._round.rotate(-1)
        return self._round[0]

    def _take(self, values: list[int], now: float) -> None:
        kind, name = self._asked
        names = self._motors if kind == "group" else (name,)
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

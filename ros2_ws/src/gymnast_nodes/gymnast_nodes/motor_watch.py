"""The motors' registers, read while the arm is at work: one request at a time, never waited for.

Errors of all motors are read within a second, whether they have torque and still know our profile every second or
two, temperatures and voltage every ten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gymnast_core.robot.arm_model import ArmModel
from gymnast_core.robot.health import MotorHealth
from gymnast_nodes.driver import motor_errors
from gymnast_nodes.driver_link import GROUP, DriverLink, PendingRead

ERROR, TORQUE, PROFILE = "Hardware_Error_Status", "Torque_Enable", "Profile_Velocity"
TEMPERATURE, VOLTAGE = "Present_Temperature", "Present_Input_Voltage"
ERRORS_S, STATE_S, SHADOW_S, HEALTH_S = 0.9, 1.0, 2.0, 10.0
"""How often each is read."""
PERIOD_S = 0.1
"""Between two reads: the driver publishes no joint states during one."""
AGAIN_S = 0.05
CONFIRM = 3
"""A motor counts as failing that leaves this many reads in a row without an answer while another motor answers."""
LIMP = 2
"""Reads in a row in which a motor has no torque; somebody may switch it off and on again."""
LOST_S = 1.5
LOST = 3
"""A driver that leaves this many reads in a row unanswered, LOST_S each, says nothing of its motors."""


@dataclass
class _Question:
    kind: str
    name: str
    register: str
    period_s: float
    due: float = 0.0


def _questions(shadows: Sequence[str]) -> list[_Question]:
    asked = [_Question("group", "all", ERROR, ERRORS_S)]
    asked += [_Question("single", shadow, ERROR, ERRORS_S) for shadow in shadows]
    asked += [_Question("group", GROUP, PROFILE, STATE_S), _Question("group", "all", TORQUE, STATE_S)]
    asked += [_Question("single", shadow, TORQUE, SHADOW_S) for shadow in shadows]
    for register in (TEMPERATURE, VOLTAGE):
        asked.append(_Question("group", "all", register, HEALTH_S))
        asked += [_Question("single", shadow, register, HEALTH_S) for shadow in shadows]
    return asked


class MotorWatch:
    """Says which motor fails. `look` is called often, from the node's own thread, while the arm is active.

    profile_ms: what every joint's Profile_Velocity was set to.
    """

    def __init__(self, link: DriverLink, profile_ms: int, arm: ArmModel) -> None:
        self._link = link
        self._arm = arm
        self._profile_ms = profile_ms
        self._questions = _questions(arm.shadows)
        self._asked = self._questions[0]
        self._answer: PendingRead | None = None
        self._asked_at = self._next_at = 0.0
        self._suspect = ""
        self._unanswered = self._lost = 0
        self._limp: dict[str, int] = {}
        self.health = MotorHealth(arm)
        self.fault = ""
        """What a motor reports, for people; empty: all is well, as far as the driver says."""
        self.failing = ""
        """The first motor that `fault` is about."""
        self.alert = False
        """Whether it is a motor's own alert, which a reboot clears."""
        self.forgot = ""
        """Joints that know our profile no more, for people: they were rebooted."""

    @property
    def unanswered(self) -> str:
        """That the driver says nothing of its motors, for people; empty where it does."""
        return "the driver answers no question about its motors" if self._lost >= LOST else ""

    def reset(self) -> None:
        """The motors were checked otherwise."""
        self._suspect, self._unanswered, self._lost = "", 0, 0
        self.fault = self.failing = self.forgot = ""
        self.alert = False
        self._limp.clear()
        self._give_up()

    def _give_up(self) -> None:
        if self._answer is not None:
            self._answer.give_up()
            self._answer = None

    def look(self) -> str:
        """Take the answer that came, ask for the next when it is due; returns `fault`."""
        now = time.monotonic()
        if self._answer is not None:
            values = self._answer.values()
            if values is not None:
                self._answer, self._next_at, self._lost = None, now + PERIOD_S, 0
                self._take(values, now)
            elif now - self._asked_at > LOST_S:
                self._lost += 1
                self._give_up()
        elif now >= self._next_at:
            question = self._next(now)
            if question is not None:
                self._answer = self._link.start_read(question.kind, question.name, question.register)
                self._asked, self._asked_at = question, now
                question.due = now + question.period_s
        return self.fault

    def _next(self, now: float) -> _Question | None:
        if self._suspect and self._unanswered < CONFIRM:
            return _Question("single", self._suspect, ERROR, 0.0)
        if self._suspect:  # does the bus work at all?
            return _Question("single", self._other(), ERROR, 0.0)
        question = min(self._questions, key=lambda one: one.due)
        return question if question.due <= now else None

    def _motors(self) -> tuple[str, ...]:
        """Those that the question is about, in the order of the answer."""
        if self._asked.kind == "single":
            return (self._asked.name,)
        return self._arm.motors if self._asked.name == "all" else self._arm.names

    def _other(self) -> str:
        first, last = self._arm.motors[0], self._arm.motors[-1]
        return first if self._suspect != first else last

    def _take(self, values: list[int], now: float) -> None:
        register, motors = self._asked.register, self._motors()
        if register == ERROR:
            self._take_errors(values, now)
        elif register == TORQUE:
            self._take_torque(dict(zip(motors, values)))
        elif register == PROFILE:
            wrong = [f"{name} ({value} ms)" for name, value in zip(motors, values) if value != self._profile_ms]
            self.forgot = ", ".join(wrong)
        else:
            for name, value in zip(motors, values):
                if register == TEMPERATURE:
                    self.health.temperature(name, float(value), now)
                else:
                    self.health.voltage(name, value / 10.0)

    def _take_torque(self, torque: dict[str, int]) -> None:
        for name, on in torque.items():
            self._limp[name] = 0 if on else self._limp.get(name, 0) + 1
        limp = [name for name, times in self._limp.items() if times >= LIMP]
        if limp:
            self.failing = limp[0]
            self.fault = f"{', '.join(limp)} has no torque (rebooted, or switched off)"

    def _take_errors(self, values: list[int], now: float) -> None:
        kind, name = self._asked.kind, self._asked.name
        names = self._motors()
        failing = {one: motor_errors(value) for one, value in zip(names, values) if value}
        if failing:
            self.failing, self.alert = next(iter(failing)), len(failing) == 1
            self.fault = "; ".join(f"{one}: {what}" for one, what in failing.items())
        elif self._suspect and kind == "single" and name == self._suspect:
            self._next_at = now + AGAIN_S
            self._unanswered += 1
            if values:
                self._suspect = ""
        elif self._suspect:
            if values:
                self.failing, self.alert = self._suspect, True
                self.fault = f"{self._suspect}: does not answer"  # a motor with an alert answers no reads
            self._suspect = ""
        elif len(values) < len(names):
            self._suspect, self._unanswered, self._next_at = names[len(values)], 1, now + AGAIN_S

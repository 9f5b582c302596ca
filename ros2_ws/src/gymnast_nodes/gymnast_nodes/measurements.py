"""The arm's joint states as the arm node and the watchdog use them: read where they are wanted, through one filter.

Nothing else in the graph acts on joint states; what a hold, a pivot, a reset, a log or a diagnostic needs is taken from
here (docs/explanation/safety.md, "Measurements").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from sensor_msgs.msg import JointState

from gymnast_core.clocks import since_boot
from gymnast_core.robot.arm_model import ArmModel
from gymnast_core.robot.believed import BelievedArm
from gymnast_core.robot.guard import FRESH_S, HOLD_FRESH_S
from gymnast_nodes.clocks import WALL
from gymnast_nodes.messages import to_seconds
from gymnast_nodes.reading import RateMeter

LOOK_PERIOD_S = 0.01


class Measurements:
    """Joint states of one driver. Times are of the steady clock, seconds.

    take_all: fetches those that came since it was called last, oldest first.
    dispute: looks who publishes them, and says what is wrong with that; empty where it is one source. With two, nothing
    is believed: what they say is dropped, and the arm is neither fresh nor held.
    """

    def __init__(self, take_all: Callable[[], list[JointState]], dispute: Callable[[], str], arm: ArmModel) -> None:
        self._take_all = take_all
        self._dispute = dispute
        self.disputed = ""
        """What `dispute` said last."""
        self._arm = BelievedArm(arm)
        self._asleep = since_boot() - time.monotonic()
        self._slept = 0.0
        self.rate = RateMeter()
        """Of what comes, believed or not."""
        self.stamp = TimeMessage()
        """Of the last believed joint state; its arrival where it has no stamp."""
        self._most_effort: np.ndarray | None = None

    def listen(self) -> tuple[bool, float]:
        """Take what came: at every tick, and before anything is done on the strength of it.

        Returns whether anything new is believed, and the seconds that this process was away before (0: it was not);
        also because the machine slept.
        """
        away = self._arm.look(since_boot())
        asleep = since_boot() - time.monotonic()
        self._slept, self._asleep = self._slept + asleep - self._asleep, asleep
        before = self.disputed
        messages = self._take_all()
        self.disputed = self._dispute()  # after they were taken: whoever sent them is in the graph by now
        if before or self.disputed:
            messages = []
        if messages:
            self.rate.tick(len(messages))
        now = time.monotonic()
        news = False
        for message in messages:
            stamp = message.header.stamp
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
            age = WALL.age(to_seconds(stamp)) if stamp_ns > 0 else 0.0
            if self._arm.take(message.name, message.position, message.velocity, message.effort, now, stamp_ns, age):
                news = True
                self._note_effort()
                self.stamp = stamp if stamp_ns > 0 else _stamp(time.time_ns())
        return news, away

    def _note_effort(self) -> None:
        if (effort := self._arm.effort) is not None:
            before = self._most_effort
            self._most_effort = np.abs(effort) if before is None else np.maximum(before, np.abs(effort))

    def most_effort(self) -> np.ndarray | None:
        """(6,) in the arm's unit, the largest of each joint among all that was believed since this was asked last; None
        where nothing was, or the driver reports none."""
        most, self._most_effort = self._most_effort, None
        return most

    def slept(self) -> float:
        """Seconds that the machine slept since this was asked last, as far as `listen` saw it."""
        slept, self._slept = self._slept, 0.0
        return slept

    def wait(self, timeout_s: float) -> bool:
        """Look until joint states are believed, at most `timeout_s`; blocks. Whether they are."""
        end = time.monotonic() + timeout_s
        self.listen()
        while not self.holdable and time.monotonic() < end:
            time.sleep(LOOK_PERIOD_S)
            self.listen()
        return self.holdable

    def forget(self) -> None:
        """Somebody looked at the arm: see `BelievedArm.forget`."""
        self._arm.forget()

    def expect(self, target: np.ndarray | None) -> None:
        """What the arm was commanded to; None: nobody commands it. See `BelievedArm.expect`."""
        self._arm.expect(target)

    @property
    def joints(self) -> np.ndarray | None:
        """(6,) radians, last believed; None before the first."""
        return self._arm.joints

    @property
    def effort(self) -> np.ndarray | None:
        """(6,) in the arm's unit, of the same joint state."""
        return self._arm.effort

    @property
    def finger(self) -> float:
        """Metres, the left finger; NaN where unknown."""
        return self._arm.finger

    @property
    def measured_at(self) -> float:
        """When the believed joints were measured."""
        return self._arm.measured_at

    @property
    def age(self) -> float:
        """Seconds since the believed joints were measured; infinite before the first."""
        return time.monotonic() - self._arm.measured_at

    @property
    def speed(self) -> float:
        """Radians a second of the fastest joint; 0 where it is not known: what is not believed is no motion."""
        return self._arm.speed if self.fresh else 0.0

    @property
    def fresh(self) -> bool:
        """Whether where the arm is is known well enough to act."""
        return not self.disputed and self._arm.fresh(time.monotonic(), FRESH_S)

    @property
    def holdable(self) -> bool:
        """Whether it is known well enough to hold there."""
        return self.hold() is not None

    def hold(self) -> np.ndarray | None:
        """Joints (6,) to hold at; None where nothing is to be sent."""
        return None if self.disputed else self._arm.hold(time.monotonic(), HOLD_FRESH_S)

    @property
    def contradiction(self) -> str:
        """See `BelievedArm.contradiction`."""
        return self._arm.contradiction()

    @property
    def failed(self) -> str:
        """Failed reads since the last believed one and the last one's reason, or empty."""
        since = self._arm.failed_since
        return f"{since} failed reads, the last: {self._arm.problem}" if since else ""

    @property
    def failures(self) -> int:
        """Joint states that were not believed, since the start."""
        return self._arm.failed

    def report(self) -> dict[str, Any]:
        """For /diagnostics."""
        values: dict[str, Any] = {
            "joint_state_rate_hz": self.rate.rate,
            "joint_state_age_s": self.age,
            "failed_reads": self._arm.failed,
            "last_failed_read": self._arm.problem or "none",
        }
        if self._arm.stamps_ahead_s:
            values["joint_state_stamps_ahead_s"] = self._arm.stamps_ahead_s
        return values


def _stamp(wall_ns: int) -> TimeMessage:
    return TimeMessage(sec=wall_ns // 10**9, nanosec=wall_ns % 10**9)

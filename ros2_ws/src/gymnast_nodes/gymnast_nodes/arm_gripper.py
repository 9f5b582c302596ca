"""The gripper under command: an opening becomes PWM, or a distance of the fingers, as the station file says."""

from __future__ import annotations

import math
import time

from gymnast_core.config import ArmConfig
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.gripper import GripperDrive, finger_from_opening, opening_from_finger
from gymnast_core.robot.identity import ArmLimits
from gymnast_nodes.driver_link import DriverLink
from gymnast_nodes.measurements import Measurements


class Gripper:
    """Openings are 0 (closed) to 1 (open)."""

    def __init__(self, link: DriverLink, config: ArmConfig, measured: Measurements) -> None:
        self._link = link
        self._in_pwm = arm_model(config.model).gripper_mode(config.gripper) == "pwm"
        self._measured = measured
        self._drive = GripperDrive()  # until the driver told its range
        self._limits: ArmLimits | None = None
        self._target: float | None = None
        self.pwm = math.nan
        """Commanded last; NaN: as a predecessor left it."""

    def configure(self, limits: ArmLimits) -> None:
        """The finger's range is known."""
        self._limits = limits
        self._drive = GripperDrive(limits.finger_closed, limits.finger_open)

    @property
    def opening(self) -> float:
        """As measured; 0 where it is not known."""
        if self._limits is None or not math.isfinite(self._measured.finger):
            return 0.0
        return opening_from_finger(self._measured.finger, self._limits.finger_closed, self._limits.finger_open)

    @property
    def target(self) -> float:
        """The opening it was sent to; the measured one where it rests."""
        return self.opening if self._target is None else self._target

    def go(self, opening: float) -> None:
        """Go to an opening."""
        self._target = min(1.0, max(0.0, opening))
        self._drive.set_target(self._target)
        if self._in_pwm:
            self.drive()
        elif self._limits is not None:
            finger = finger_from_opening(self._target, self._limits.finger_closed, self._limits.finger_open)
            self._send(2.0 * finger)  # the distance between both

    def drive(self) -> None:
        """At every tick. PWM is written when it changes, and zero is written once."""
        pwm = self._drive.pwm(self._measured.finger, time.monotonic())
        if self._in_pwm and pwm != self.pwm:
            self.pwm = pwm
            self._send(pwm)

    def rest(self) -> None:
        """Nobody will switch the motor off where the motion ends: a grasp stays, anything else stops here."""
        pwm = self._drive.rest(self._measured.finger, time.monotonic())
        if pwm == 0.0:
            self._target = None
        if self._in_pwm:
            self.pwm = pwm
            self._send(pwm)
        elif pwm == 0.0 and math.isfinite(self._measured.finger):
            self._send(2.0 * self._measured.finger)

    def resend(self) -> None:
        """The motor may have been rebooted: forget the last command that it got."""
        self.pwm = math.nan
        if self._target is not None:
            self.go(self._target)

    def _send(self, value: float) -> None:
        self._link.command_gripper(value)

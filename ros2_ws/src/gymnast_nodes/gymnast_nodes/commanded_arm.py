"""Where the arm is, where it was sent, and how it is held: the one place where arm joints are commanded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from gymnast_core.errors import StationError
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.controller import BridgeController
from gymnast_core.robot.droop import DroopCorrection
from gymnast_core.robot.guard import ArmGuard
from gymnast_core.robot.identity import ArmLimits
from gymnast_nodes.arm_mode import Mode
from gymnast_nodes.driver_link import DriverLink
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.measurements import Measurements

SETTLED = 0.05
"""Radians from its target within which the arm is there."""


class CommandedArm:
    """The six joints. dispute: see `Measurements`."""

    def __init__(self, node: ManagedNode, mode: Mode, link: DriverLink, dispute: Callable[[], str]) -> None:
        self._node = node
        self._mode = mode
        self._link = link
        config = node.station.arm
        self.model = arm_model(config.model)
        """Which arm it is."""
        self.measured = Measurements(link.joint_states, dispute, self.model)
        self.guard = ArmGuard(config.max_effort_ma, self.model)
        self._droop = DroopCorrection(config.correct_droop)
        self.controller: BridgeController | None = None
        self.target: np.ndarray | None = None
        """(6,) radians, commanded last; None before the first command."""
        self._topic = f"{config.driver_name}/joint_states"

    def configure(self, limits: ArmLimits) -> None:
        """The driver's limits are known."""
        self.controller = BridgeController(self._node.station, joint_limits=(limits.lower, limits.upper))

    @property
    def joints(self) -> np.ndarray | None:
        """(6,) radians, where the arm was last believed to be."""
        return self.measured.joints

    @property
    def distance(self) -> float:
        """Radians from the measured arm to its target, of the joint that is farthest away; infinite without either."""
        if self.joints is None or self.target is None:
            return math.inf
        return float(np.max(np.abs(self.target - self.joints)))

    def listen(self) -> None:
        """Take the driver's joint states: at every tick, and before anything is done on the strength of them."""
        self.measured.expect(self.target if self._mode.in_charge else None)
        news, away = self.measured.listen()
        if away and self._node.is_active:
            self._node.get_logger().warning(f"the arm node was away for {away:.1f} s; it looks before it acts")
        if news and self.joints is not None:
            self.guard.measured(self.joints, self.measured.effort, self.measured.measured_at)
        elif self.measured.failed:
            self.guard.reads_failed(self.measured.failed)

    def find(self, timeout_s: float, hold: bool = True) -> None:
        """Where the arm is becomes its target (`hold`); what was believed before is forgotten. Blocks.

        Raises: StationError when no joint states are believed within `timeout_s`.
        """
        self.measured.forget()
        if not self.measured.wait(timeout_s) or (hold and not self.hold_measured()):
            reads = f" ({self.measured.failed})" if self.measured.failed else ""
            raise StationError(
                f"no joint states to believe on {self._topic} for {timeout_s:g} s{reads}; check "
                "the driver, its USB cable and the motors' power"
            )

    def hold_measured(self) -> bool:
        """Command the pose last believed; False when it is not known. Then nothing is sent: an old pose would drive
        the arm back, while without any command it comes to rest at its last target within one profile."""
        self.listen()
        joints = self.measured.hold()
        if joints is None:
            return False
        if self.controller is not None:
            self.controller.reset_target(joints)
        self._droop.forget()
        self.send(joints)
        self.guard.relaxed(time.monotonic())
        return True

    def send(self, joints: np.ndarray) -> None:
        """Command joints (6,), radians."""
        self.target = np.asarray(joints, dtype=np.float64).copy()
        self.guard.sent(self.target, time.monotonic())
        self._link.command_arm(self._droop.command(self.target).tolist())

    def forget_droop(self) -> None:
        """What comes next is no action: each place on the way droops in its own manner."""
        self._droop.forget()

    def step(self, joints: np.ndarray) -> None:
        """Command the joints (6,), radians, of one action."""
        self._droop.look(self.target, self.joints)
        self.send(joints)

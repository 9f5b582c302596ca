"""The motion of arm/rest: to the start pose, down to the driver's sleep pose, and only then the motors are let go.

An arm that lies there is woken by the next arm/reset.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnast_msgs.msg import ArmState

from gymnast_core.errors import StationError
from gymnast_nodes.arm_gripper import Gripper
from gymnast_nodes.arm_mode import Mode
from gymnast_nodes.arm_reset import RATE_HZ, ResetMotion
from gymnast_nodes.commanded_arm import CommandedArm
from gymnast_nodes.driver import Driver


class RestMotion:
    """One at a time. tell: publishes arm/state, before the driver is waited for."""

    def __init__(
        self,
        mode: Mode,
        arm: CommandedArm,
        gripper: Gripper,
        driver: Driver,
        reset: ResetMotion,
        tell: Callable[[], None],
    ) -> None:
        self._mode = mode
        self._arm = arm
        self._gripper = gripper
        self._driver = driver
        self._reset = reset
        self._tell = tell

    async def run(self) -> None:
        """Lie down and let go.

        Raises: StationError when the arm may not be moved, the driver knows no pose to lie in, the arm did not arrive,
            or the driver does not let go; the motors then keep their torque.
        """
        pose = self._driver.sleep_pose()
        await self._reset.run(np.zeros(3), "")
        controller, joints = self._arm.controller, self._arm.joints
        assert controller is not None and joints is not None, "it has just been reset"
        await self._reset.go(controller.straight_path(joints, pose, 1.0 / RATE_HZ), "lying down", "its rest pose")
        self._gripper.rest()
        self._let_go()

    def _let_go(self) -> None:
        """This blocks for some tenths of a second, in which an arm that lies has nothing to do."""
        self._mode.rest()
        self._tell()
        try:
            self._driver.torque_off()
        except StationError as error:
            self._mode.set(ArmState.MODE_HOLDING, f"not let go: {error}")
            self._driver.torque_on()
            self._arm.hold_measured()
            raise

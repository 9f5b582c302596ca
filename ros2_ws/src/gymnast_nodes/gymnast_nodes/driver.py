"""What the arm node asks of the vendor's driver (`xs_sdk`): present, the right arm, healthy, and set to our profile.

It asks over one of two wires (`gymnast_nodes.driver_link`): the driver's services, or the vendor's Python API.

The driver's services report no failure: wrong names only log, and a register list stops at the first motor that does
not answer. So every answer is checked for length and content here. Everything is for lifecycle transitions: it blocks.
"""

from __future__ import annotations

import math

import numpy as np
from interbotix_xs_msgs.srv import Reboot, RobotInfo
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node

from gymnast_core.config import ArmConfig
from gymnast_core.errors import StationError
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.identity import (
    ArmLimits,
    check_description,
    check_limits,
    check_motor_models,
    check_sleep_pose,
)
from gymnast_nodes.calls import ServiceCaller
from gymnast_nodes.driver_link import CALL_TIMEOUT_S, GROUP, READS, DriverLink

REBOOT_TIMEOUT_S = 10.0
"""The driver sleeps a second for each motor, and answers when it has rebooted."""
DESCRIPTION_WAIT_S = 1.0
"""For the driver's parameters; where it has none, its limits alone tell the arm."""
ERROR_BITS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}


def motor_errors(value: int) -> str:
    """What a motor's error register says, for people."""
    return ", ".join(text for bit, text in ERROR_BITS.items() if value & (1 << bit)) or f"error {value}"


class Driver:
    """Checks and settings of the vendor's driver; raises StationError with the remedy."""

    def __init__(self, node: Node, config: ArmConfig, link: DriverLink) -> None:
        self._config = config
        self._model = arm_model(config.model)
        self._link = link
        self._calls = ServiceCaller(node)
        self._logger = node.get_logger()

    def wait(self) -> None:
        """Wait for the driver. Raises: StationError naming it, when it does not come within driver_timeout_s."""
        self._link.wait(self._config.driver_timeout_s)

    def check_arm(self) -> ArmLimits:
        """Joint order, limits, finger range. Raises: StationError when this is another arm, naming what differs."""
        info = self._info("group", GROUP)
        if tuple(info.joint_names) != self._model.names:
            raise StationError(
                f"the driver's group '{GROUP}' has joints {', '.join(info.joint_names) or 'none'}; needed are "
                f"{', '.join(self._model.names)}: is robot_model {self._model.name}?"
            )
        gripper = self._info("single", "gripper")
        if len(gripper.joint_lower_limits) != 1 or len(gripper.joint_upper_limits) != 1:
            raise StationError("the driver reports no range of the gripper's finger; was use_gripper set to false?")
        finger = (gripper.joint_lower_limits[0], gripper.joint_upper_limits[0])
        limits = ArmLimits(tuple(info.joint_lower_limits), tuple(info.joint_upper_limits), *finger)
        return check_limits(limits, self._model)

    def check_links(self) -> None:
        """Link lengths, where the driver tells its URDF. Raises: StationError when they are another arm's."""
        description = self._description()
        if description:
            check_description(description, self._model)

    def check_models(self) -> None:
        """Model numbers of the motors, where the driver tells them all. Raises: StationError when they are another
        arm's."""
        values = self._read("group", "all", "Model_Number")
        if len(values) == len(self._model.motors):
            told = {motor: value for motor, value in zip(self._model.motors, values) if value}
            check_motor_models(told, self._model)

    def _description(self) -> str:
        """The URDF that the driver was started with; empty where it does not tell."""
        service = f"{self._config.driver_node}/get_parameters"
        if self._calls.wait_for([(GetParameters, service)], DESCRIPTION_WAIT_S):
            return ""
        request = GetParameters.Request(names=["robot_description"])
        values = self._calls.call(GetParameters, service, request, CALL_TIMEOUT_S, READS).values
        return str(values[0].string_value) if len(values) == 1 else ""

    def check_motors(self) -> None:
        """Hardware errors of all motors. Raises: StationError naming the motors and the remedy."""
        values = self._read("group", "all", "Hardware_Error_Status")
        if not values and len(self._read("group", "all", "Profile_Velocity")) == len(self._model.motors):
            self._logger.warning("the driver knows no error registers (a simulated one?); motors are not checked")
            return
        failing = {}
        for name in (*self._model.motors, *self._model.shadows):
            single = self._read("single", name, "Hardware_Error_Status")
            if len(single) != 1:
                failing[name] = "does not answer"  # a motor with an alert answers no reads
            elif single[0]:
                failing[name] = motor_errors(single[0])
        if failing:
            text = "; ".join(f"{name}: {what}" for name, what in failing.items())
            raise StationError(f"motor fault: {text}; support the arm, reboot the motors and start again")

    def check_torque(self) -> None:
        """Raises: StationError naming the motors that have been let go of, which only a person may change."""
        torque = dict(zip(self._model.motors, self._read("group", "all", "Torque_Enable")))
        for shadow in self._model.shadows:  # a reboot of its own re-torques none of them
            torque.update(zip((shadow,), self._read("single", shadow, "Torque_Enable")))
        limp = [name for name, value in torque.items() if not value]
        if limp:
            raise StationError(f"no torque on {', '.join(limp)}; support the arm, then call arm/rearm")

    def apply_profile(self) -> None:
        """Position mode with our time profile, touched only where it differs, then read back.

        Changing the operating mode lets go of the motors for a moment, so it is done only when the mode is wrong: an
        arm node that comes back in mid-air must not drop the arm.

        Raises: StationError when the driver did not take it.
        """
        wanted = {
            "Profile_Velocity": self._config.profile_velocity_ms,
            "Profile_Acceleration": self._config.profile_acceleration_ms,
        }
        info = self._info("group", GROUP)
        if (info.mode, info.profile_type) != ("position", "time"):
            self._set_mode("group", GROUP, "position", "time", *wanted.values())
        for register, value in wanted.items():
            if self._read_joints(register) != [value] * 6:
                self._link.write("group", GROUP, register, value)
                found = self._read_joints(register)
                if found != [value] * 6:
                    raise StationError(
                        f"the driver did not set {register} to {value} ms (found {found}); without it the arm moves "
                        "at full speed, so it is not used"
                    )
            self._apply_to_shadows(register, value)
        mode = self._model.gripper_mode(self._config.gripper)
        if self._info("single", "gripper").mode != mode:
            self._set_mode("single", "gripper", mode, "time", *wanted.values())

    def _apply_to_shadows(self, register: str, value: int) -> None:
        """One that was rebooted alone knows its master's profile no more. Drivers that know no shadows say nothing."""
        for shadow in self._model.shadows:
            if self._read("single", shadow, register) not in ([], [value]):
                self._link.write("single", shadow, register, value)

    def _read_joints(self, register: str) -> list[int]:
        """Of the six joints; a list that was cut short is read again, joint by joint."""
        values = self._read("group", GROUP, register)
        if 0 < len(values) < len(self._model.names):
            values = [value for name in self._model.names for value in self._read("single", name, register)]
        return values

    def reboot(self, motor: str) -> None:
        """Reboot one motor, and give it its torque back; its profile is `apply_profile`'s. Takes some seconds.

        Raises: StationError when the driver does not do it.
        """
        service = f"{self._config.driver_name}/reboot_motors"
        request = Reboot.Request(cmd_type="single", name=motor, enable=True)
        self._calls.call(Reboot, service, request, REBOOT_TIMEOUT_S)
        self._link.torque("single", motor, True)

    def torque_on(self) -> None:
        """Switch the torque of all motors on; the caller commands the measured pose first."""
        self._link.torque("group", "all", True)
        for shadow in self._model.shadows:
            if self._read("single", shadow, "Torque_Enable") == [0]:
                self._link.torque("single", shadow, True)

    def torque_off(self) -> None:
        """Let go of all motors, and read back that they are let go of. The caller's arm lies in its sleep pose.

        Raises: StationError when the driver did not do it.
        """
        self._link.torque("group", "all", False)
        found = self._read("group", "all", "Torque_Enable")
        if found != [0] * len(self._model.motors):
            raise StationError(f"the driver did not let go of the motors (Torque_Enable: found {found})")

    def sleep_pose(self) -> np.ndarray:
        """Joints of the pose in which the arm lies without torque, radians, as the driver's configuration has them.

        Raises: StationError when the arm does not lie there.
        """
        told = [float(value) for value in self._info("group", GROUP).joint_sleep_positions]
        return check_sleep_pose(told, self._model)

    def _set_mode(self, kind: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None:
        self._link.set_mode(kind, name, mode, profile, velocity, acceleration)
        found = self._info(kind, name)
        if found.mode != mode:
            raise StationError(f"the driver did not set {name} to mode {mode} (found '{found.mode}')")

    def _info(self, kind: str, name: str) -> RobotInfo.Response:
        info = self._link.info(kind, name)
        if info.num_joints == 0:
            raise StationError(f"the driver does not know the {kind} '{name}'; check its motor configuration")
        if not all(math.isfinite(x) for x in (*info.joint_lower_limits, *info.joint_upper_limits)):
            raise StationError(f"the driver reports limits of '{name}' that are not finite")
        return info

    def _read(self, kind: str, name: str, register: str) -> list[int]:
        return self._link.read(kind, name, register)

    def close(self) -> None:
        self._calls.close()
        self._link.close()

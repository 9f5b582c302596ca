"""What the arm node asks of the vendor's driver (`xs_sdk`): present, the right arm, healthy, and set to our profile.

The driver's services report no failure: wrong names only log, and a register list stops at the first motor that does
not answer. So every answer is checked for length and content here. Everything is for lifecycle transitions: it blocks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from interbotix_xs_msgs.srv import OperatingModes, RegisterValues, RobotInfo, TorqueEnable
from rclpy.node import Node
from sensor_msgs.msg import JointState

from gymnast_core.config import ArmConfig
from gymnast_core.errors import StationError
from gymnast_core.robot.gripper import FINGER_CLOSED, FINGER_OPEN
from gymnast_nodes.common import DRIVER_QOS, JOINT_NAMES, ServiceCaller, measured_joints

GROUP = "arm"
MOTORS = (*JOINT_NAMES, "gripper")
SHADOWS = ("shoulder_shadow", "elbow_shadow")
"""Second motors of the two strongest joints; reads of a group never reach them."""
CALL_TIMEOUT_S = 5.0
ERROR_BITS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}


def absent_driver(arm: ArmConfig, service: str = "") -> str:
    """What to say, and do, where the driver does not offer `service` (its full name; the first it would offer)."""
    return (
        f"arm driver not found: no service {service or f'{arm.driver}/get_robot_info'}; start xs_sdk with robot_name "
        f"{arm.driver[1:]}, or correct arm.namespace in the station file"
    )


@dataclass(frozen=True)
class DriverInfo:
    """What the driver says about the arm: joint limits in radians, the finger's range in metres."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    finger_closed: float
    finger_open: float


class Driver:
    """Checks and settings of the vendor's driver; raises StationError with the remedy."""

    def __init__(self, node: Node, config: ArmConfig) -> None:
        self._config = config
        self._calls = ServiceCaller(node)
        self._logger = node.get_logger()

    def name(self, service: str) -> str:
        return f"{self._config.driver}/{service}"

    def wait(self) -> None:
        """Wait for the driver. Raises: StationError naming it, when it does not come within driver_timeout_s."""
        needed = [
            (RobotInfo, self.name("get_robot_info")),
            (OperatingModes, self.name("set_operating_modes")),
            (TorqueEnable, self.name("torque_enable")),
            (RegisterValues, self.name("set_motor_registers")),
            (RegisterValues, self.name("get_motor_registers")),
        ]
        missing = self._calls.wait_for(needed, self._config.driver_timeout_s)
        if missing:
            raise StationError(
                f"{absent_driver(self._config, missing[0])} (waited {self._config.driver_timeout_s:g} s)"
            )

    def check_arm(self) -> DriverInfo:
        """Joint order and limits. Raises: StationError when this is not a WidowX 250s as we know it."""
        info = self._info("group", GROUP)
        if tuple(info.joint_names) != JOINT_NAMES:
            raise StationError(
                f"the driver's group '{GROUP}' has joints {', '.join(info.joint_names) or 'none'}; needed are "
                f"{', '.join(JOINT_NAMES)}: is robot_model wx250s?"
            )
        lower, upper = tuple(info.joint_lower_limits), tuple(info.joint_upper_limits)
        if len(lower) != 6 or len(upper) != 6:
            raise StationError("the driver reports no joint limits; it was started without robot_description")
        gripper = self._info("single", "gripper")
        closed, fully_open = FINGER_CLOSED, FINGER_OPEN
        if len(gripper.joint_lower_limits) == 1 and len(gripper.joint_upper_limits) == 1:
            closed, fully_open = gripper.joint_lower_limits[0], gripper.joint_upper_limits[0]
        return DriverInfo(lower, upper, closed, fully_open)

    def joint_state(self, timeout_s: float) -> JointState | None:
        """The next joint state that is no failed read; None when none comes in time."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            message = self._calls.receive(JointState, self.name("joint_states"), DRIVER_QOS, end - time.monotonic())
            if message is not None and measured_joints(message) is not None:
                return message
        return None

    def check_motors(self) -> None:
        """Hardware errors of all nine motors. Raises: StationError naming the motors and the remedy."""
        values = self._read("group", "all", "Hardware_Error_Status")
        if not values and len(self._read("group", "all", "Profile_Velocity")) == len(MOTORS):
            self._logger.warning("the driver knows no error registers (a simulated one?); motors are not checked")
            return
        failing = {}
        for name in (*MOTORS, *SHADOWS):
            single = self._read("single", name, "Hardware_Error_Status")
            if len(single) != 1:
                failing[name] = "does not answer"  # a motor with an alert answers no reads
            elif single[0]:
                bits = [text for bit, text in ERROR_BITS.items() if single[0] & (1 << bit)]
                failing[name] = ", ".join(bits) or f"error {single[0]}"
        if failing:
            text = "; ".join(f"{name}: {what}" for name, what in failing.items())
            raise StationError(f"motor fault: {text}; support the arm, reboot the motors and start again")

    def check_torque(self) -> None:
        """Raises: StationError naming the motors that have been let go of, which only a person may change."""
        values = self._read("group", "all", "Torque_Enable")
        limp = [name for name, value in zip(MOTORS, values) if not value]
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
            if self._read("group", GROUP, register) != [value] * 6:
                request = RegisterValues.Request(cmd_type="group", name=GROUP, reg=register, value=value)
                self._calls.call(RegisterValues, self.name("set_motor_registers"), request, CALL_TIMEOUT_S)
                found = self._read("group", GROUP, register)
                if found != [value] * 6:
                    raise StationError(
                        f"the driver did not set {register} to {value} ms (found {found}); without it the arm moves "
                        "at full speed, so it is not used"
                    )
        mode = "pwm" if self._config.gripper == "pwm" else "linear_position"
        if self._info("single", "gripper").mode != mode:
            self._set_mode("single", "gripper", mode, "time", *wanted.values())

    def torque_on(self) -> None:
        """Switch the torque of all motors on; the caller commands the measured pose first."""
        request = TorqueEnable.Request(cmd_type="group", name="all", enable=True)
        self._calls.call(TorqueEnable, self.name("torque_enable"), request, CALL_TIMEOUT_S)

    def _set_mode(self, kind: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None:
        request = OperatingModes.Request(
            cmd_type=kind,
            name=name,
            mode=mode,
            profile_type=profile,
            profile_velocity=velocity,
            profile_acceleration=acceleration,
        )
        self._calls.call(OperatingModes, self.name("set_operating_modes"), request, CALL_TIMEOUT_S)
        found = self._info(kind, name)
        if found.mode != mode:
            raise StationError(f"the driver did not set {name} to mode {mode} (found '{found.mode}')")

    def _info(self, kind: str, name: str) -> RobotInfo.Response:
        request = RobotInfo.Request(cmd_type=kind, name=name)
        info = self._calls.call(RobotInfo, self.name("get_robot_info"), request, CALL_TIMEOUT_S)
        if info.num_joints == 0:
            raise StationError(f"the driver does not know the {kind} '{name}'; check its motor configuration")
        if not all(math.isfinite(x) for x in (*info.joint_lower_limits, *info.joint_upper_limits)):
            raise StationError(f"the driver reports limits of '{name}' that are not finite")
        return info

    def _read(self, kind: str, name: str, register: str) -> list[int]:
        request = RegisterValues.Request(cmd_type=kind, name=name, reg=register)
        response = self._calls.call(RegisterValues, self.name("get_motor_registers"), request, CALL_TIMEOUT_S)
        return [int(value) for value in response.values]

    def close(self) -> None:
        self._calls.close()

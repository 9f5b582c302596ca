"""The driver of an arm that gymnast drives itself, behind the interface that the rest of the graph knows.

Joint states at 100 Hz, joint and gripper commands, and the few services of the X-Series driver that the arm node asks
(`gymnast_nodes.driver`). What is special to an arm is a class of its own (`gymnast_nodes.direct_driver`). The node
lives in a process of its own, so that the watchdog holds the arm also where the arm node is dead.

Where the X-Series driver moves at full speed, this one does not move: without a motion profile, and without torque.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
from rcl_interfaces.msg import ParameterDescriptor
from sensor_msgs.msg import JointState

from gymnast_core.errors import ConfigError
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.identity import ArmLimits
from gymnast_nodes.clocks import STEADY, SteadyNode
from gymnast_nodes.direct_driver import ArmReading, DriverFault, driver_class
from gymnast_nodes.driver_link import GROUP
from gymnast_nodes.parameters import station_parameter
from gymnast_nodes.qos import DRIVER_QOS
from gymnast_nodes.running import run_node

PERIOD_S = 0.01
RETRY_S = 1.0
CONTROLLER_ERROR = 128
"""Hardware_Error_Status of every motor while the controller reports an error; its own words are in the log."""
PROFILE = ("Profile_Velocity", "Profile_Acceleration")


class DriverNode(SteadyNode):
    """One arm, one connection."""

    def __init__(self) -> None:
        super().__init__("driver")
        _, station = station_parameter(self)
        self._config = station.arm
        if not self._config.is_direct:
            raise ConfigError(f"arm.driver is {self._config.driver}: the vendor's driver drives this arm")
        self._model = arm_model(self._config.model)
        self._driver = driver_class(self._config.driver)(self._config, self.get_logger().info)
        self._lock = threading.RLock()  # one call of the driver at a time
        self._fault = ""
        self._torque = False
        self._profile = dict.fromkeys(PROFILE, 0)
        self._ending = threading.Event()
        self._open()
        self._limits: ArmLimits = self._driver.limits()
        description = ParameterDescriptor(description="the arm's links, as it tells them itself", read_only=True)
        self.declare_parameter("robot_description", self._urdf(self._driver.origins()), description)
        self._joint_states = self.create_publisher(JointState, "joint_states", DRIVER_QOS)
        self.create_subscription(JointGroupCommand, "commands/joint_group", self._on_group, DRIVER_QOS)
        self.create_subscription(JointSingleCommand, "commands/joint_single", self._on_single, DRIVER_QOS)
        self.create_service(RobotInfo, "get_robot_info", self._on_info)
        self.create_service(OperatingModes, "set_operating_modes", self._on_modes)
        self.create_service(TorqueEnable, "torque_enable", self._on_torque)
        self.create_service(Reboot, "reboot_motors", self._on_reboot)
        self.create_service(RegisterValues, "set_motor_registers", self._on_set_registers)
        self.create_service(RegisterValues, "get_motor_registers", self._on_get_registers)
        self._reader = threading.Thread(target=self._run, name="arm", daemon=True)
        self._reader.start()
        self.get_logger().info(f"{self._model.title} by {self._config.driver}, as {self._config.driver_name}")

    def stop(self) -> None:
        """The process ends: the connection, too."""
        self._ending.set()
        self._reader.join(timeout=2.0)
        with self._lock:
            self._driver.close()

    def _open(self) -> None:
        self._driver.open()
        self._fault, self._torque = "", self._driver.has_torque()

    # Joint states.

    def _run(self) -> None:
        """Read and publish; after a fault, connect again. No joint states meanwhile: the arm node holds for that."""
        due = time.monotonic()
        while not self._ending.is_set():
            try:
                with self._lock:
                    if self._fault:
                        self._open()
                        self.get_logger().info("the arm is connected again")
                    reading = self._driver.read()
            except DriverFault as error:
                self._fail(error)
                self._ending.wait(RETRY_S)
                continue
            if reading is not None:
                self._publish(reading)
            due = max(due + PERIOD_S, time.monotonic())
            self._ending.wait(due - time.monotonic())

    def _publish(self, reading: ArmReading) -> None:
        message = JointState(name=[*self._model.names, self._model.gripper.joint])
        message.header.stamp = self.get_clock().now().to_msg()
        message.position = [float(value) for value in reading.positions]
        message.velocity = [float(value) for value in reading.velocities]
        message.effort = [float(value) for value in reading.efforts]
        if self.context.ok():
            self._joint_states.publish(message)

    def _fail(self, error: DriverFault) -> None:
        """Remember and say it; the reader connects again."""
        with self._lock:
            if str(error) != self._fault:
                self.get_logger().error(str(error))
            self._fault = str(error)
            self._driver.close()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """One call of the driver; a fault is remembered, and what was asked stays unanswered."""
        with self._lock:
            try:
                yield
            except DriverFault as error:
                self._fail(error)

    # Commands.

    def _on_group(self, message: JointGroupCommand) -> None:
        goal = np.array(message.cmd, dtype=np.float64)
        if message.name != GROUP or goal.shape != (6,) or not np.isfinite(goal).all():
            self.get_logger().warning(f"group '{message.name}' with {list(message.cmd)}: needed '{GROUP}', six radians")
        elif (seconds := self._motion_s()) > 0:
            with self._asking():
                self._driver.move(np.clip(goal, self._limits.lower, self._limits.upper).tolist(), seconds)

    def _on_single(self, message: JointSingleCommand) -> None:
        if message.name != "gripper" or not np.isfinite(message.cmd):
            self.get_logger().warning(f"joint '{message.name}' to {message.cmd}: only the gripper moves alone")
        elif (seconds := self._motion_s()) > 0:
            finger = float(np.clip(message.cmd / 2.0, self._limits.finger_closed, self._limits.finger_open))
            with self._asking():
                self._driver.move_finger(finger, seconds)

    def _motion_s(self) -> float:
        """How long a motion takes; 0 where there must be none."""
        seconds = self._profile["Profile_Velocity"] / 1000.0
        if not self._torque and not self._fault:
            return 0.0  # the arm node commands the measured pose before it switches the torque on
        why = self._fault or ("" if seconds > 0 else "no motion profile is set")
        if why:
            self.get_logger().warning(
                f"a command is dropped: {why}", throttle_duration_sec=1.0, throttle_time_source_type=STEADY
            )
        return 0.0 if why else seconds

    # Services. As in the X-Series driver, no answer says whether it worked; who asks reads it back.

    def _motors(self, kind: str, name: str) -> Sequence[str]:
        """The motors of a group or a single one; empty where there is no such thing."""
        if kind == "group":
            return {GROUP: self._model.names, "all": self._model.motors}.get(name, ())
        return (name,) if name in self._model.motors else ()

    def _on_info(self, request: RobotInfo.Request, response: RobotInfo.Response) -> RobotInfo.Response:
        motors = self._motors(request.cmd_type, request.name)
        model, limits = self._model, self._limits
        rows = {
            name: (name, low, high, model.joint_speed, rest)
            for name, low, high, rest in zip(model.names, limits.lower, limits.upper, model.sleep_pose)
        }
        finger = model.gripper
        rows["gripper"] = (finger.joint, limits.finger_closed, limits.finger_open, finger.speed, finger.closed)
        shown = [rows[motor] for motor in motors]
        response.mode = "linear_position" if request.name == "gripper" else "position"
        response.profile_type = "time"
        response.num_joints = len(motors)
        response.joint_names = [row[0] for row in shown]
        response.joint_lower_limits = [row[1] for row in shown]
        response.joint_upper_limits = [row[2] for row in shown]
        response.joint_velocity_limits = [row[3] for row in shown]
        response.joint_sleep_positions = [row[4] for row in shown]
        response.joint_ids = [model.motors.index(motor) for motor in motors]
        response.joint_state_indices = list(response.joint_ids)
        response.name = [request.name]
        return response

    def _on_modes(self, request: OperatingModes.Request, response: OperatingModes.Response) -> OperatingModes.Response:
        """The modes are fixed; a profile comes with them."""
        if self._motors(request.cmd_type, request.name) and request.name != "gripper":
            self._profile = dict(zip(PROFILE, (request.profile_velocity, request.profile_acceleration)))
        return response

    def _on_torque(self, request: TorqueEnable.Request, response: TorqueEnable.Response) -> TorqueEnable.Response:
        """Of the whole arm, whichever motor is named."""
        if self._motors(request.cmd_type, request.name):
            with self._asking():
                if self._driver.has_torque() != bool(request.enable):
                    self._driver.set_torque(bool(request.enable))
                self._torque = bool(request.enable)
        return response

    def _on_reboot(self, request: Reboot.Request, response: Reboot.Response) -> Reboot.Response:
        """Clears the controller's error, and forgets the profile, of the whole arm."""
        if self._motors(request.cmd_type, request.name):
            with self._asking():
                self._profile = dict.fromkeys(PROFILE, 0)
                self._driver.recover()
                self._fault, self._torque = "", bool(request.enable)
                self._driver.set_torque(self._torque)
        return response

    def _on_set_registers(
        self, request: RegisterValues.Request, response: RegisterValues.Response
    ) -> RegisterValues.Response:
        """The profile alone can be set."""
        if self._motors(request.cmd_type, request.name) and request.reg in PROFILE:
            self._profile[request.reg] = max(0, request.value)
        return response

    def _on_get_registers(
        self, request: RegisterValues.Request, response: RegisterValues.Response
    ) -> RegisterValues.Response:
        motors = self._motors(request.cmd_type, request.name)
        values: Sequence[float] = ()
        if request.reg == "Hardware_Error_Status":
            values = [CONTROLLER_ERROR if self._fault else 0] * len(motors)
        elif request.reg in PROFILE:
            values = [self._profile[request.reg]] * len(motors)
        elif not self._fault:
            with self._asking():
                values = self._asked(request.reg, motors)
        response.values = [round(value) for value in values]
        return response

    def _asked(self, register: str, motors: Sequence[str]) -> Sequence[float]:
        """What the arm itself tells. Raises: DriverFault."""
        if register == "Torque_Enable":
            return [int(self._driver.has_torque())] * len(motors)
        if register == "Present_Temperature" and (all_of_them := self._driver.temperatures()):
            return [all_of_them[self._model.motors.index(motor)] for motor in motors]
        return ()

    def _urdf(self, origins: Sequence[Sequence[float]]) -> str:
        """As much of a description as tells one arm from another: joints, and where they stand; empty without them."""
        joints = "".join(
            f'<joint name="{name}" type="revolute"><origin xyz="{" ".join(f"{value:.6g}" for value in xyz)}"/></joint>'
            for name, xyz in zip(self._model.names, origins)
        )
        return f'<robot name="{self._model.name}">{joints}</robot>' if joints else ""


def main() -> None:
    sys.exit(run_node(DriverNode, urgent=True))

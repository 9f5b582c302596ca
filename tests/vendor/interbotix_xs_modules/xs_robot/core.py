"""The part of the vendor's API that speaks to the driver. It waits for services and joint states without end."""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any

import rclpy
from interbotix_common_modules.common_robot.robot import InterbotixRobotNode
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand, JointTrajectoryCommand
from interbotix_xs_msgs.srv import MotorGains, OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
from rclpy.callback_groups import ReentrantCallbackGroup
from sensor_msgs.msg import JointState


class InterbotixRobotXSCore:
    """One robot. No answer says whether anything worked; those that carry values may carry fewer than asked for."""

    def __init__(self, robot_model: str, robot_name: str | None, node: InterbotixRobotNode, **_: Any) -> None:
        self.robot_node = node
        self.joint_states: JointState | None = None
        self.js_mutex = Lock()
        group, ns = ReentrantCallbackGroup(), f"/{robot_name or robot_model}"
        services = {
            "srv_set_op_modes": (OperatingModes, "set_operating_modes"),
            "srv_set_pids": (MotorGains, "set_motor_pid_gains"),
            "srv_set_reg": (RegisterValues, "set_motor_registers"),
            "srv_get_reg": (RegisterValues, "get_motor_registers"),
            "srv_get_info": (RobotInfo, "get_robot_info"),
            "srv_torque": (TorqueEnable, "torque_enable"),
            "srv_reboot": (Reboot, "reboot_motors"),
        }
        for attribute, (kind, name) in services.items():
            setattr(self, attribute, node.create_client(kind, f"{ns}/{name}", callback_group=group))
        for attribute in services:
            getattr(self, attribute).wait_for_service()
        self.pub_group = node.create_publisher(JointGroupCommand, f"{ns}/commands/joint_group", 10)
        self.pub_single = node.create_publisher(JointSingleCommand, f"{ns}/commands/joint_single", 10)
        self.pub_traj = node.create_publisher(JointTrajectoryCommand, f"{ns}/commands/joint_trajectory", 10)
        node.create_subscription(JointState, f"{ns}/joint_states", self._joint_state_cb, 10, callback_group=group)
        while self.joint_states is None and rclpy.ok():
            rclpy.spin_once(node)

    def get_node(self) -> InterbotixRobotNode:
        return self.robot_node

    def _joint_state_cb(self, message: JointState) -> None:
        with self.js_mutex:
            self.joint_states = message

    def _ask(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self.get_node().wait_until_future_complete(future)
        return future.result()

    def robot_set_operating_modes(
        self,
        cmd_type: str,
        name: str,
        mode: str,
        profile_type: str = "velocity",
        profile_velocity: int = 0,
        profile_acceleration: int = 0,
    ) -> None:
        request = OperatingModes.Request(cmd_type=cmd_type, name=name, mode=mode, profile_type=profile_type)
        request.profile_velocity, request.profile_acceleration = profile_velocity, profile_acceleration
        self._ask(self.srv_set_op_modes, request)  # type: ignore[attr-defined]

    def robot_set_motor_registers(self, cmd_type: str, name: str, reg: str, value: int) -> None:
        request = RegisterValues.Request(cmd_type=cmd_type, name=name, reg=reg, value=value)
        self._ask(self.srv_set_reg, request)  # type: ignore[attr-defined]

    def robot_get_motor_registers(self, cmd_type: str, name: str, reg: str) -> list[int]:
        request = RegisterValues.Request(cmd_type=cmd_type, name=name, reg=reg)
        return self._ask(self.srv_get_reg, request).values  # type: ignore[attr-defined]

    def robot_get_robot_info(self, cmd_type: str, name: str) -> RobotInfo.Response:
        return self._ask(self.srv_get_info, RobotInfo.Request(cmd_type=cmd_type, name=name))  # type: ignore[attr-defined]

    def robot_torque_enable(self, cmd_type: str, name: str, enable: bool) -> None:
        request = TorqueEnable.Request(cmd_type=cmd_type, name=name, enable=enable)
        self._ask(self.srv_torque, request)  # type: ignore[attr-defined]

    def robot_reboot_motors(self, cmd_type: str, name: str, enable: bool, smart_reboot: bool = False) -> None:
        request = Reboot.Request(cmd_type=cmd_type, name=name, enable=enable, smart_reboot=smart_reboot)
        self._ask(self.srv_reboot, request)  # type: ignore[attr-defined]

    def robot_write_commands(self, group_name: str, commands: list[float]) -> None:
        self.pub_group.publish(JointGroupCommand(name=group_name, cmd=commands))

    def robot_write_joint_command(self, joint_name: str, command: float) -> None:
        self.pub_single.publish(JointSingleCommand(name=joint_name, cmd=command))

    def robot_get_joint_states(self) -> JointState:
        with self.js_mutex:
            return copy.deepcopy(self.joint_states)

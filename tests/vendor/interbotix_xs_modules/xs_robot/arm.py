"""The vendor's manipulator: a core, and an arm that asks for its group while it is built, and caches its profile."""

from __future__ import annotations

import sys
from typing import Any

import rclpy
from interbotix_common_modules.common_robot.robot import InterbotixRobotNode
from interbotix_xs_msgs.srv import RobotInfo

from interbotix_xs_modules.xs_robot.core import InterbotixRobotXSCore


class InterbotixArmXSInterface:
    """The arm's joints. `moving_time` of the constructor is cached, and never written to the motors."""

    def __init__(self, core: InterbotixRobotXSCore, group_name: str, moving_time: float, accel_time: float) -> None:
        self.core, self.group_name = core, group_name
        self.moving_time, self.accel_time = moving_time, accel_time
        request = RobotInfo.Request(cmd_type="group", name=group_name)
        future = core.srv_get_info.call_async(request)  # type: ignore[attr-defined]
        while rclpy.ok() and not future.done():
            rclpy.spin_until_future_complete(core.get_node(), future)
        self.group_info = future.result()
        if self.group_info.num_joints != 6:
            sys.exit(1)


class InterbotixManipulatorXS:
    """Arm and core; with `gripper_name=None` there is no gripper."""

    def __init__(
        self,
        robot_model: str,
        group_name: str = "arm",
        gripper_name: str | None = "gripper",
        robot_name: str | None = None,
        moving_time: float = 2.0,
        accel_time: float = 0.3,
        node: InterbotixRobotNode | None = None,
        iterative_update_fk: bool = True,
        **_: Any,
    ) -> None:
        assert gripper_name is None and node is not None, "the stand-in has neither a gripper nor a global node"
        self.core = InterbotixRobotXSCore(robot_model, robot_name, node)
        self.arm = InterbotixArmXSInterface(self.core, group_name, moving_time, accel_time)

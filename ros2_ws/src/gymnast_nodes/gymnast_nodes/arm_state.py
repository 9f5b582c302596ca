"""What the arm node says of the arm: arm/state, and its report in /diagnostics."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, Pose, Quaternion
from gymnast_msgs.msg import ArmState

from gymnast_nodes.action_check import ActionCheck
from gymnast_nodes.arm_gripper import Gripper
from gymnast_nodes.arm_mode import Mode
from gymnast_nodes.arm_watch import ArmWatch
from gymnast_nodes.commanded_arm import CommandedArm
from gymnast_nodes.lifecycle import DiagnosticReport, Diagnostics, ManagedNode
from gymnast_nodes.qos import COMMAND_QOS


class ArmStates:
    """Reports once a second by itself; `publish` is called at every tick."""

    def __init__(
        self, node: ManagedNode, mode: Mode, arm: CommandedArm, gripper: Gripper, actions: ActionCheck, watch: ArmWatch
    ) -> None:
        self._node = node
        self._mode = mode
        self._arm = arm
        self._gripper = gripper
        self._actions = actions
        self._watch = watch
        self._failures_told = 0
        self.frame = f"{node.station.arm.driver_name[1:]}/base_link"
        self._publisher = node.create_publisher(ArmState, "arm/state", COMMAND_QOS)
        self._diagnostics = Diagnostics(node, node.station.arm.driver_name)
        self._diagnostics.add("arm", self._report)

    def publish(self) -> None:
        """Say on arm/state where the arm was last believed to be, with the stamp of then, and what it does."""
        message = ArmState(mode=self._mode.value, detail=self._mode.detail, gripper=self._gripper.opening)
        message.commander = self._actions.holder
        message.holds, message.hold = self._watch.holds, self._watch.last_hold
        effort = self._arm.measured.most_effort()
        load = np.full(6, np.nan) if effort is None else self._arm.guard.load(effort)
        message.load = load.astype(np.float32)
        message.header.frame_id = self.frame
        controller, joints = self._arm.controller, self._arm.joints
        known = joints is not None
        message.header.stamp = self._arm.measured.stamp if known else self._node.get_clock().now().to_msg()
        if controller is not None and joints is not None:
            position, quaternion = controller.pose(joints)
            x, y, z, w = (float(v) for v in quaternion)
            px, py, pz = (float(v) for v in position)
            message.pose = Pose(position=Point(x=px, y=py, z=pz), orientation=Quaternion(x=x, y=y, z=z, w=w))
            message.bridge_pose = controller.bridge_pose(joints).astype(np.float32)
            message.target_bridge_pose = controller.target_bridge_pose.astype(np.float32)
        self._publisher.publish(message)

    def _report(self) -> DiagnosticReport:
        measured, text = self._arm.measured, str(self._mode)
        failed, self._failures_told = measured.failures - self._failures_told, measured.failures
        level = DiagnosticStatus.OK
        if self._mode.stopped or (self._node.is_active and not measured.fresh):
            level = DiagnosticStatus.ERROR
        elif self._watch.faults.count(time.monotonic()) or failed:
            level = DiagnosticStatus.WARN
        warnings = self._watch.motors.health.warnings()
        if warnings and level == DiagnosticStatus.OK:
            level, text = DiagnosticStatus.WARN, f"{text}; {'; '.join(warnings)}"
        if problem := self._watch.speakers.problem:
            level, text = DiagnosticStatus.ERROR, problem
        values: dict[str, Any] = {
            **measured.report(),
            "motor_fault": self._watch.motors.fault or "none",
            "motor_warnings": "; ".join(warnings) or "none",
            **self._watch.motors.health.report(),
            "commander": self._actions.holder or "none",
            "gripper_opening": self._gripper.opening,
            "gripper_pwm": self._gripper.pwm,
            "refused_actions": dict(self._actions.refused) or "none",
            "holds": self._watch.holds,
            "last_hold": self._watch.last_hold or "none",
        }
        if measured.effort is not None:
            unit = self._arm.model.effort.unit.lower()
            values.update(
                {f"effort_{name}_{unit}": float(value) for name, value in zip(self._arm.model.names, measured.effort)}
            )
        return level, text, values

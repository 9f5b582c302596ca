"""The arm of the simulated station under command, as the arm node drives it, only without ROS and without a clock.

Bridge actions go through `BridgeController` to joint goals with the same motion profile, the gripper through
`GripperDrive`, and an arm that pushes too hard is held where it is, as `ArmGuard` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.robot.bridge import bridge_pose_from_matrix
from gymnast_core.robot.controller import BridgeController, JointCommand
from gymnast_core.robot.droop import DroopCorrection
from gymnast_core.robot.gripper import GripperDrive, finger_from_opening, opening_from_finger
from gymnast_core.robot.guard import ARRIVED, ArmGuard
from gymnast_core.robot.kinematics import forward_kinematics
from gymnast_core.robot.strain import OVERLOAD, StepStrain
from gymnast_core.simulation.simulator import SimulatedStation

DRIVE_PERIOD_S = 0.02
LOOK_EVERY = 2
"""Drive periods between two looks of the guard, which make 25 looks a second, as the arm node takes."""
SETTLE_S = 0.3
STOPPED = "emergency_stop"
"""What an action is refused for once a fault has stopped the arm for good."""


@dataclass(frozen=True)
class Acted:
    """What became of one action: what was executed (7,), whether it was changed, and what it cost."""

    executed: np.ndarray
    changed: bool
    strain: StepStrain


class SteppedArm:
    """One arm; `begin` before the first action."""

    def __init__(self, config: StationConfig, station: SimulatedStation) -> None:
        self._config = config.arm
        self._station = station
        self._controller = BridgeController(config.arm, config.safety)
        self._model = self._controller.model
        self._drive = self._new_drive()
        self._guard = ArmGuard(config.arm.max_effort_ma, self._model)
        self._droop = DroopCorrection(config.arm.correct_droop)
        self._target = self._controller.joint_target
        self._gripper = 1.0
        self._holding = self._stopped = False
        self._holds: list[str] = []
        self._load = 0.0

    @property
    def joints(self) -> np.ndarray:
        """(6,) radians, measured."""
        return self._station.joint_state()[0][:6]

    @property
    def target_pose(self) -> np.ndarray:
        """(4, 4) of the end effector in the base frame, where the actions so far say that it is."""
        return self._controller.target_pose

    def begin(self, offset: np.ndarray) -> None:
        """Put the arm down at its start pose, moved by `offset` (3,), metres, with the gripper open."""
        self._station.place_arm(self._controller.start_joints(offset))
        self._drive = self._new_drive()
        self._drive.set_target(1.0)
        self._gripper = 1.0
        self._settle(SETTLE_S, guarded=False)
        self._controller.reset_target(self.joints)
        self._guard = ArmGuard(self._config.max_effort_ma, self._model)
        self._droop.forget()
        self._target = self._controller.joint_target
        self._holding = self._stopped = False

    def act(self, action: np.ndarray) -> Acted:
        """One Bridge action (7,) and one control period."""
        self._holds, self._load = [], 0.0
        events: tuple[str, ...]
        if refusal := self._refusal():
            executed, events = np.append(np.zeros(6), self._gripper).astype(np.float32), (refusal,)
        else:
            command = self._controller.step(action, self.joints)
            executed, events = command.executed_action, command.events
            self._follow(command)
        self._settle(1.0 / self._config.control_hz, guarded=True)
        return Acted(executed, bool(events), StepStrain(events, tuple(self._holds), self._load))

    def state(self) -> np.ndarray:
        """Measured (7,): position (m), Bridge roll, pitch, yaw (rad), gripper opening."""
        positions = self._station.joint_state()[0]
        pose = bridge_pose_from_matrix(forward_kinematics(positions[:6], self._model))
        gripper = self._model.gripper
        return np.append(pose, opening_from_finger(float(positions[7]), gripper.closed, gripper.open)).astype(
            np.float32
        )

    def _drive_gripper(self) -> None:
        if self._model.gripper.pwm:
            finger = float(self._station.joint_state()[0][7])
            self._station.command_gripper_pwm(self._drive.pwm(finger, self._station.time))
        else:
            gripper = self._model.gripper
            self._station.command_gripper_position(
                2.0 * finger_from_opening(self._gripper, gripper.closed, gripper.open)
            )

    def _new_drive(self) -> GripperDrive:
        return GripperDrive(self._model.gripper.closed, self._model.gripper.open)

    def _refusal(self) -> str:
        """Why an action is not even handed to the controller; empty when it is."""
        if self._stopped:
            return STOPPED
        return OVERLOAD if self._guard.letting_go else ""

    def _follow(self, command: JointCommand) -> None:
        self._holding = not command.accepted
        if command.accepted:
            self._droop.look(self._target, self.joints)
            self._send(command.joint_target)
            self._gripper = command.gripper
            self._drive.set_target(command.gripper)
        elif float(np.max(np.abs(self._target - self.joints))) >= ARRIVED:
            self._hold()

    def _send(self, joints: np.ndarray) -> None:
        arm = self._config
        self._target = joints
        goal = self._droop.command(joints)
        self._station.command_joints(goal, arm.profile_velocity_ms / 1000.0, arm.profile_acceleration_ms / 1000.0)
        self._guard.sent(joints, self._station.time)

    def _hold(self) -> None:
        """Stay at the measured pose: deltas count from here."""
        joints = self.joints
        self._droop.forget()
        self._controller.reset_target(joints)
        self._send(self._controller.joint_target)
        self._guard.relaxed(self._station.time)

    def _settle(self, seconds: float, guarded: bool) -> None:
        for tick in range(round(seconds / DRIVE_PERIOD_S)):
            self._drive_gripper()
            self._station.advance(DRIVE_PERIOD_S)
            if guarded:
                self._look(tick)

    def _look(self, tick: int) -> None:
        positions, _, efforts = self._station.joint_state()
        self._load = max(self._load, float(self._guard.load(efforts[:6]).max()))
        if tick % LOOK_EVERY or self._stopped:
            return
        now = self._station.time
        self._guard.measured(positions[:6], efforts[:6], now)
        fault = self._guard.check(now)
        if fault is None or (fault.kind == OVERLOAD and self._holding):
            return
        self._holds.append(fault.kind)
        self._holding, self._stopped = True, fault.kind != OVERLOAD
        self._hold()

"""The vendor's motor driver as seen from outside, over a simulated arm: groups, modes, registers, and its faults.

Behaviour that a user of the real driver meets is kept: register writes sleep 10 ms a motor, a reboot takes a second a
motor and forgets the profile (0 is full speed), group reads never reach the shadow motors and stop at the first motor
that does not answer, changing the operating mode lets go of the motors for a moment, and a failed bus read is
published as if every motor stood at -pi.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gymnast_core.robot.arm_model import WX250S, ArmModel
from gymnast_core.simulation.faults import BUS
from gymnast_core.simulation.motors import (
    DECIVOLTS,
    LOW_DECIVOLTS,
    MOTOR_IDS,
    OVERLOAD_BIT,
    RAM_DEFAULTS,
    REBOOT_S,
    Motors,
)

JOINT_STATE_NAMES = (*WX250S.motors, "left_finger", "right_finger")
"""Of the arm of Bridge data."""
STALL_MA_PER_RAD = 40_000.0
STALL_MA = 3200.0
"""What a joint that cannot move pushes with at most."""


class SimulatedArm(Protocol):
    """What the driver needs of the simulated station."""

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (rad, m), velocities, efforts (in the arm's unit), each (9,) in the order of `names`."""
        ...

    def command_joints(self, joints: np.ndarray, duration_s: float, ramp_s: float) -> None:
        """New goal (6,) rad: each joint starts a trapezoid of this duration; 0 is full speed."""
        ...

    def command_gripper_pwm(self, pwm: float) -> None: ...

    def command_gripper_position(self, distance: float) -> None: ...

    def set_torque(self, enabled: bool) -> None: ...


@dataclass(frozen=True)
class RobotInfo:
    """Answer of get_robot_info, field by field as the vendor's."""

    mode: str
    profile_type: str
    joint_names: list[str]
    joint_ids: list[int]
    joint_lower_limits: list[float]
    joint_upper_limits: list[float]
    joint_velocity_limits: list[float]
    joint_sleep_positions: list[float]
    joint_state_indices: list[int]
    name: list[str]


class SimulatedDriver:
    """Registers, modes and commands of the vendor's driver. Raises nothing: it logs, as the vendor's does.

    Every public method may be called from any thread; one that sleeps holds `bus` meanwhile, so that joint states
    stall as they do on the real, mutually exclusive callback group.
    """

    def __init__(self, arm: SimulatedArm, log: Callable[[str], None], model: ArmModel = WX250S) -> None:
        self._arm = arm
        self._model = model
        self.names = (*model.motors, model.gripper.joint, "right_finger")
        """Of the joint states."""
        self._log = log
        self.bus = threading.RLock()
        self.motors = Motors(log, model)
        self._group_modes = {"arm": ("position", "time"), "all": ("", "")}
        self._goal: np.ndarray | None = None
        self.faults: dict[str, str] = {}
        self._stuck = 0.0

    # Faults: kind -> motor's name, or empty (see `faults.KINDS`).

    def set_faults(self, faults: Mapping[str, str]) -> None:
        """Switch faults on and off; those of a moment happen when they are new."""
        with self.bus:
            new = {name: motor for name, motor in faults.items() if self.faults.get(name) != motor}
            self.faults = dict(faults)
            self.motors.silent = any(name in faults for name in BUS)
            for each in self.motors.values():
                each.registers["Hardware_Error_Status"] = 0
            if "motor_error" in faults:
                self.motors[faults["motor_error"]].registers["Hardware_Error_Status"] = 1 << OVERLOAD_BIT
            if "rebooted" in new:
                self.motors[new["rebooted"]].registers.update(RAM_DEFAULTS)
                self._apply_torque()
            if "profile_lost" in new:
                self.motors[new["profile_lost"]].registers.update(Profile_Velocity=0, Profile_Acceleration=0)
            if self.motors.warm != faults.get("hot", ""):
                self.motors.warm, self.motors.warm_since = faults.get("hot", ""), time.monotonic()
            self.motors.decivolts = LOW_DECIVOLTS if "low_voltage" in faults else DECIVOLTS
            if "stalled" in new:
                self._stuck = float(self._arm.joint_state()[0][self._model.names.index(new["stalled"])])

    # State.

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the driver publishes: positions, velocities, efforts, each (9,)."""
        position, velocity, effort = (np.array(part, dtype=np.float64) for part in self._arm.joint_state())
        if any(name in self.faults for name in BUS):
            position[:7] = -math.pi
            velocity[:] = 0.0
            effort[:] = 0.0
        elif "overload" in self.faults:
            name = self.faults["overload"].replace("_shadow", "")
            effort[self.names.index(name)] = -5000.0
        elif "stalled" in self.faults and self._goal is not None:
            joint = self._model.names.index(self.faults["stalled"])
            push = STALL_MA_PER_RAD * (self._goal[joint] - position[joint])
            effort[joint] = float(np.clip(push, -STALL_MA, STALL_MA))
        if "not_a_number" in self.faults:
            position[2] = math.nan
        return position, velocity, effort

    def robot_info(self, kind: str, name: str) -> RobotInfo | None:
        """None (and a log line) for an unknown group or motor."""
        motors = self.motors.select(kind, name)
        if motors is None:
            return None
        joints = [motor.name for motor in motors]
        mode, profile = self._group_modes[name] if kind == "group" else (motors[0].mode, motors[0].profile_type)
        shown = [self._model.gripper.joint if joint == "gripper" else joint for joint in joints]
        base = [joint.replace("_shadow", "") for joint in joints]
        names, finger = self._model.names, self._model.gripper
        arm = [names.index(joint) if joint in names else None for joint in base]
        lower, upper, sleep = self._model.lower, self._model.upper, self._model.sleep_pose
        ids = list(self.motors)
        return RobotInfo(
            mode=mode,
            profile_type=profile,
            joint_names=shown,
            joint_ids=[MOTOR_IDS.get(joint, ids.index(joint) + 1) for joint in joints],
            joint_lower_limits=[finger.closed if i is None else float(lower[i]) for i in arm],
            joint_upper_limits=[finger.open if i is None else float(upper[i]) for i in arm],
            joint_velocity_limits=[1.0 if i is None else self._model.joint_speed for i in arm],
            joint_sleep_positions=[finger.closed if i is None else sleep[i] for i in arm],
            joint_state_indices=[self.names.index(n.replace("_shadow", "")) for n in shown],
            name=list(self.motors.groups) if name == "all" else [name],
        )

    # Commands.

    def command_group(self, name: str, values: Sequence[float]) -> None:
        """commands/joint_group: a wrong length or name only logs."""
        with self.bus:
            joints = self.motors.groups.get(name)
            if joints is None:
                self._log(f"group '{name}' does not exist")
                return
            if len(values) != len(joints):
                self._log(f"group '{name}' has {len(joints)} joints, found {len(values)} commands")
                return
            if self._deaf:
                return
            if self.motors[self._model.names[0]].mode != "position":
                self._log("only position mode moves the simulated arm")
                return
            self._goal = np.array(values[:6], dtype=np.float64)
            self._move()
            if name == "all":
                self._command_gripper(float(values[6]))

    def command_single(self, name: str, value: float) -> None:
        """commands/joint_single."""
        with self.bus:
            if name not in self._model.motors:
                self._log(f"joint '{name}' does not exist")
            elif self._deaf:
                return
            elif name == "gripper":
                self._command_gripper(value)
            else:
                if self._goal is None:
                    self._goal = np.array(self._arm.joint_state()[0][:6], dtype=np.float64)
                self._goal[self._model.names.index(name)] = value
                self._move()

    @property
    def _deaf(self) -> bool:
        return "commands_dropped" in self.faults or "usb_unplugged" in self.faults

    def forget_goal(self) -> None:
        """The scene was reset: a later single-joint command must not bring the old goal back."""
        self._goal = None

    def _move(self) -> None:
        registers = self.motors[self._model.names[0]].registers
        limit = np.array([self._model.lower, self._model.upper])
        assert self._goal is not None
        if not np.isfinite(self._goal).all():
            self._log("a joint command is not finite")  # the vendor's driver would pass it on
            self._goal = None
            return
        goal = np.clip(self._goal, limit[0], limit[1])
        if "stalled" in self.faults:
            goal[self._model.names.index(self.faults["stalled"])] = self._stuck
        self._arm.command_joints(
            goal,
            registers["Profile_Velocity"] / 1000.0,
            registers["Profile_Acceleration"] / 1000.0,
        )

    def _command_gripper(self, value: float) -> None:
        if not math.isfinite(value):
            self._log("a gripper command is not finite")
        elif self.motors["gripper"].mode == "linear_position":
            self._arm.command_gripper_position(value)
        elif self.motors["gripper"].mode == "pwm":
            self._arm.command_gripper_pwm(value)
        else:
            self._log(f"the simulated gripper has no mode '{self.motors['gripper'].mode}'")

    # Services.

    def torque_enable(self, kind: str, name: str, enable: bool) -> None:
        motors = self.motors.select(kind, name)
        if motors is None:
            return
        with self.bus:
            for motor in motors:
                self.motors.write(motor, "Torque_Enable", int(enable))
            self._apply_torque()

    def set_operating_modes(
        self, kind: str, name: str, mode: str, profile_type: str, velocity: int, acceleration: int
    ) -> None:
        """Torque off, mode and profile, torque on again; the shadows go with their masters."""
        motors = self.motors.select(kind, name)
        if motors is None:
            return
        with self.bus:
            for motor in motors:
                self.motors.write(motor, "Torque_Enable", 0)
            self._apply_torque()
            for motor in motors:
                motor.mode, motor.profile_type = mode, profile_type
                self.motors.write(motor, "Profile_Velocity", velocity)
                self.motors.write(motor, "Profile_Acceleration", acceleration)
            for motor in motors:
                self.motors.write(motor, "Torque_Enable", 1)
            self._apply_torque()
            if kind == "group":
                self._group_modes[name] = (mode, profile_type)
        self._log(f"operating mode of {kind} '{name}' is {mode}")

    def reboot_motors(self, kind: str, name: str, enable: bool, smart: bool) -> None:
        """A second a motor; RAM registers fall back to their defaults, so the next motion is at full speed."""
        motors = self.motors.select(kind, name)
        if motors is None:
            return
        with self.bus:
            for motor in motors:
                if kind == "group" and smart and motor.registers["Hardware_Error_Status"] == 0:
                    continue
                time.sleep(REBOOT_S)
                motor.registers.update(RAM_DEFAULTS)
                for name in ("motor_error", "overload"):
                    if self.faults.get(name) == motor.name:
                        del self.faults[name]
            for motor in motors:
                if enable and not motor.name.endswith("_shadow"):  # as the vendor's: nobody re-torques a shadow
                    self.motors.write(motor, "Torque_Enable", 1)
            self._apply_torque()

    def set_registers(self, kind: str, name: str, register: str, value: int) -> None:
        motors = self.motors.select(kind, name)
        if motors is None:
            return
        with self.bus:
            for motor in motors:
                self.motors.write(motor, register, value)
            if register == "Torque_Enable":
                self._apply_torque()

    def get_registers(self, kind: str, name: str, register: str) -> list[int]:
        """Values in order, cut short at the first motor that does not answer."""
        motors = self.motors.select(kind, name)
        values: list[int] = []
        with self.bus:
            for motor in motors or []:
                value = self.motors.read(motor, register)
                if value is None:
                    self._log(f"reading {register} of {motor.name} failed")
                    break
                values.append(value)
        return values[:-1] if kind == "group" and "short_registers" in self.faults else values

    def set_gains(self, kind: str, name: str, gains: Sequence[int]) -> None:
        registers = (
            "Position_P_Gain",
            "Position_I_Gain",
            "Position_D_Gain",
            "Feedforward_1st_Gain",
            "Feedforward_2nd_Gain",
            "Velocity_P_Gain",
            "Velocity_I_Gain",
        )
        for register, value in zip(registers, gains):
            self.set_registers(kind, name, register, value)

    def _apply_torque(self) -> None:
        self._arm.set_torque(all(self.motors[joint].registers["Torque_Enable"] for joint in self._model.names))

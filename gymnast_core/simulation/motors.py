"""The Dynamixels of the arm: names and numbers, modes, registers, and how long a write to one takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gymnast_core.robot.arm_model import WX250S, ArmModel

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
MOTOR_IDS = {
    "waist": 1,
    "shoulder": 2,
    "shoulder_shadow": 3,
    "elbow": 4,
    "elbow_shadow": 5,
    "forearm_roll": 6,
    "wrist_angle": 7,
    "wrist_rotate": 8,
    "gripper": 9,
}
GROUPS = {"arm": ARM_JOINTS, "all": (*ARM_JOINTS, "gripper")}
"""Of the arm of Bridge data."""
REGISTER_WRITE_S = 0.01
REBOOT_S = 1.0
COOL_C, HOT_C, WARMING_C = 35, 79, 2.0
"""Temperature of a motor at rest, the highest one, degrees Celsius, and degrees a second of one that gets warmer."""
DECIVOLTS, LOW_DECIVOLTS = 120, 98
RAM_DEFAULTS = {
    "Profile_Velocity": 0,
    "Profile_Acceleration": 0,
    "Torque_Enable": 0,
    "Hardware_Error_Status": 0,
    "Goal_PWM": 885,
    "Position_P_Gain": 800,
    "Position_I_Gain": 0,
    "Position_D_Gain": 0,
    "Feedforward_1st_Gain": 0,
    "Feedforward_2nd_Gain": 0,
    "Velocity_P_Gain": 100,
    "Velocity_I_Gain": 1920,
    "Bus_Watchdog": 0,
    "Moving": 0,
}
EEPROM = {"Temperature_Limit": 80, "Shutdown": 52, "Current_Limit": 1193, "PWM_Limit": 885, "Velocity_Limit": 131}
OVERLOAD_BIT = 5


@dataclass
class Motor:
    """One Dynamixel: its mode and registers."""

    name: str
    mode: str = "position"
    profile_type: str = "time"
    registers: dict[str, int] = field(default_factory=lambda: {**RAM_DEFAULTS, **EEPROM})


class Motors(dict[str, Motor]):
    """All motors by name, shadows included.

    They begin as the vendor's mode file leaves them: the arm by time profile 2000/300, the gripper by PWM, torque on.
    log: takes a line where something does not exist.
    """

    def __init__(self, log: Callable[[str], None], arm: ArmModel = WX250S) -> None:
        super().__init__({name: Motor(name) for name in (*arm.motors, *arm.shadows)})
        self.groups = {"arm": arm.names, "all": arm.motors}
        self._log = log
        self.silent = False
        """No motor answers a read."""
        self.warm, self.warm_since = "", 0.0
        """The motor that gets warmer, and since when (steady clock, seconds)."""
        self.decivolts = DECIVOLTS
        """Supply, tenths of a volt."""
        for motor in self.values():
            motor.registers.update(Profile_Velocity=2000, Profile_Acceleration=300, Torque_Enable=1)
        for name, fitting in arm.motor_models.items():
            self[name].registers["Model_Number"] = fitting[0]
        self["gripper"].mode = "pwm"

    def select(self, kind: str, name: str) -> list[Motor] | None:
        """The motors of a group or a single one; None, and a line in the log, where there is no such thing."""
        if kind == "group" and name in self.groups:
            return [self[joint] for joint in self.groups[name]]
        if kind == "single" and name in self:
            return [self[name]]
        if kind not in ("group", "single"):
            self._log(f"cmd_type was '{kind}'; choices are 'group' or 'single'")
        else:
            self._log(f"{kind} '{name}' does not exist")
        return None

    def write(self, motor: Motor, register: str, value: int) -> None:
        """Set a register, in the time that takes; registers in RAM reach a shadow, too."""
        if register not in motor.registers:
            self._log(f"register '{register}' does not exist")
            return
        time.sleep(REGISTER_WRITE_S)
        motor.registers[register] = value
        shadow = self.get(f"{motor.name}_shadow")
        if shadow is not None and register in RAM_DEFAULTS:
            shadow.registers[register] = value

    def read(self, motor: Motor, register: str) -> int | None:
        """A register's value; None where the motor does not answer."""
        if self.silent or motor.registers["Hardware_Error_Status"]:
            return None  # a motor with an alert answers no reads
        if register == "Present_Temperature":
            warming = time.monotonic() - self.warm_since if motor.name == self.warm else 0.0
            return min(COOL_C + int(WARMING_C * warming), HOT_C)
        if register == "Present_Input_Voltage":
            return self.decivolts
        return motor.registers.get(register)

"""A stand-in for the vendor's package `trossen_arm`, for tests on machines without it: what our driver uses of it.

The arm follows its goals exactly, quintically in the time given, without gravity; efforts say how far it is behind.
`tests/test_ros_trossen.py` compares names and arguments with the package where it is installed.
"""

from __future__ import annotations

import enum
import time
from types import SimpleNamespace

import numpy as np


class Mode(enum.Enum):
    idle = 0
    position = 1


class Model(enum.Enum):
    wxai_v0 = 0


class StandardEndEffector:
    wxai_v0_follower = SimpleNamespace()


class LogicError(Exception):
    pass


VectorDouble = list
LOWER = (-3.05433, 0.0, 0.0, -1.5708, -1.5708, -3.14159, 0.0)
UPPER = (3.05433, 3.14159, 2.35619, 1.5708, 1.5708, 3.14159, 0.044)
ORIGINS = (
    (0, 0, 0.05725),
    (0.02, 0, 0.04625),
    (-0.264, 0, 0),
    (0.245, 0, 0.06),
    (0.06775, -0.00005, 0.0455),
    (0.02895, 0, -0.0455),
    (0.0865, 0.0186, 0),
    (0.0865, -0.0186, 0),
)


class _Controller:
    """Keeps its pose while nobody is connected; one for each address."""

    def __init__(self) -> None:
        self.start = self.goal = np.zeros(7)
        self.began, self.seconds = 0.0, np.zeros(7)
        self.error = ""

    def now(self) -> np.ndarray:
        share = np.clip((time.monotonic() - self.began) / np.maximum(self.seconds, 1e-9), 0.0, 1.0)
        smooth = share**3 * (10 - 15 * share + 6 * share**2)
        return self.start + smooth * (self.goal - self.start)

    def speed(self) -> np.ndarray:
        share = np.clip((time.monotonic() - self.began) / np.maximum(self.seconds, 1e-9), 0.0, 1.0)
        slope = 30 * share**2 * (1 - share) ** 2 / np.maximum(self.seconds, 1e-9)
        return slope * (self.goal - self.start)

    def go(self, joints: slice, goal: list[float], seconds: float) -> None:
        elapsed = time.monotonic() - self.began
        place, self.seconds = self.now(), np.maximum(self.seconds - elapsed, 1e-9)
        self.goal, self.start, self.began = self.goal.copy(), place, time.monotonic()
        self.goal[joints], self.seconds[joints] = goal, max(seconds, 1e-9)


_CONTROLLERS: dict[str, _Controller] = {}


def overheat(address: str) -> None:
    """Not of the package: what its simulated controller calls a fault."""
    _CONTROLLERS[address].error = "Error occurred: Joint overheated"


class TrossenArmDriver:
    def configure(self, model, end_effector, serv_ip, clear_error, timeout=20.0) -> None:
        if not serv_ip.startswith("127."):
            raise RuntimeError(f"Failed to connect to {serv_ip}")
        self._controller = _CONTROLLERS.setdefault(serv_ip, _Controller())
        if clear_error:
            self._controller.error = ""
        self._modes = [Mode.idle] * 7
        self._check()

    def cleanup(self, reboot_controller=False) -> None:
        self._modes = [Mode.idle] * 7

    def _check(self) -> None:
        if self._controller.error:
            raise RuntimeError(self._controller.error)

    def _in_position(self) -> None:
        self._check()
        if self._modes[0] is not Mode.position:
            raise LogicError("Requested to set joint 0 position but it is in mode idle")

    def get_controller_version(self) -> str:
        return "stand-in"

    def get_joint_limits(self) -> list:
        return [SimpleNamespace(position_min=low, position_max=high) for low, high in zip(LOWER, UPPER)]

    def get_joints(self) -> list:
        return [SimpleNamespace(origin_xyz=place) for place in ORIGINS]

    def get_modes(self) -> list:
        self._check()
        return list(self._modes)

    def set_all_modes(self, mode) -> None:
        self._check()
        self._modes = [mode] * 7

    def get_all_positions(self) -> list:
        self._check()
        return self._controller.now().tolist()

    def get_all_rotor_temperatures(self) -> list:
        self._check()
        return [35.0] * 7

    def get_robot_output(self) -> SimpleNamespace:
        self._check()
        arm = self._controller
        efforts = (2.0 * (arm.goal - arm.now())).tolist()
        every = SimpleNamespace(positions=arm.now().tolist(), velocities=arm.speed().tolist(), efforts=efforts)
        header = SimpleNamespace(timestamp=time.monotonic_ns() // 1000)
        return SimpleNamespace(header=header, joint=SimpleNamespace(all=every))

    def set_all_positions(self, goal_positions, goal_time=2.0, blocking=True) -> None:
        self._in_position()
        self._controller.go(slice(0, 7), goal_positions, goal_time)

    def set_arm_positions(self, goal_positions, goal_time=2.0, blocking=True) -> None:
        self._in_position()
        self._controller.go(slice(0, 6), goal_positions, goal_time)

    def set_gripper_position(self, goal_position, goal_time=2.0, blocking=True) -> None:
        self._in_position()
        self._controller.go(slice(6, 7), [goal_position], goal_time)

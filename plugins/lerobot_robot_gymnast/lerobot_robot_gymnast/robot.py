"""The station as LeRobot sees a robot: named numbers and one picture out, named numbers in.

Names are those of Bridge's actions. Observed are the end effector's x, y, z (metres, base frame), roll, pitch, yaw
(radians, Bridge rotation frame) and the gripper's opening, 0 to 1; commanded are the same names' changes within one
step, and the gripper itself, 1 = open. Every action passes the station's safety envelope.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import numpy as np
from lerobot.robots import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from gymnast_core.station_file import open_station
from lerobot_robot_gymnast.config import GymnastConfig

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
CAMERA = "camera"


class Arm(Protocol):
    """What drives a station: `gymnast_nodes.driving.Driving`, or a simulation."""

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """(frame (S, S, 3) uint8 RGB, state (7,) float32)."""
        ...

    def act(self, action: np.ndarray) -> None:
        """One action (7,)."""
        ...


class Simulated:
    """A simulated station in this process; an action takes no longer than its physics."""

    def __init__(self, config: GymnastConfig) -> None:
        from gymnast_core.rollout.gymnasium_environments import StationEnv

        self._station = StationEnv(config.station, config.task, max_steps=10000)
        self._seen, _ = self._station.reset(seed=config.seed)

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """What the last action led to."""
        return self._seen["pixels"], self._seen["agent_pos"]

    def act(self, action: np.ndarray) -> None:
        """Move at once."""
        self._seen = self._station.step(action)[0]

    def close(self) -> None:
        """Give the renderer back."""
        self._station.close()


class Gymnast(Robot):
    """See the module's text."""

    config_class = GymnastConfig
    name = "gymnast"

    def __init__(self, config: GymnastConfig) -> None:
        super().__init__(config)
        self.config = config
        self._size = open_station(config.station).config.camera.observation_size
        self._arm: Arm | None = None
        self._open = contextlib.ExitStack()

    @property
    def observation_features(self) -> dict[str, Any]:
        """The state's numbers, and the camera's picture."""
        return {**dict.fromkeys(NAMES, float), CAMERA: (self._size, self._size, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        """The action's numbers."""
        return dict.fromkeys(NAMES, float)

    @property
    def cameras(self) -> dict[str, Any]:
        """None that LeRobot opens itself."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether this process commands the arm."""
        return self._arm is not None

    @property
    def is_calibrated(self) -> bool:
        """The driver calibrates its arm."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do: the station file says it all."""

    def connect(self, calibrate: bool = True) -> None:
        """Take the lease of the arm. Raises: StationError where the arm is not ready, or somebody else commands it."""
        if self._arm is not None:
            raise DeviceAlreadyConnectedError(f"{self} is connected already")
        with contextlib.ExitStack() as opening:
            if self.config.over == "simulation":
                self._arm = opening.enter_context(contextlib.closing(Simulated(self.config)))
            else:
                from gymnast_nodes.client import Station

                station = opening.enter_context(Station(self.config.namespace))
                self._arm = opening.enter_context(station.drive(self.config.station))
            self._open = opening.pop_all()

    def get_observation(self) -> dict[str, Any]:
        """State and picture now. Raises: StationError where they are too old."""
        frame, state = self._connected().observe()
        return {**dict(zip(NAMES, state.tolist())), CAMERA: frame}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Send one action; returns it. Raises: DataError for numbers that are missing or not finite; StationError."""
        values = [float(action.get(name, np.nan)) for name in NAMES]
        self._connected().act(np.array(values, np.float32))
        return dict(zip(NAMES, values))

    def disconnect(self) -> None:
        """Give the lease back; the arm holds."""
        self._connected()
        self._arm = None
        self._open.close()

    def _connected(self) -> Arm:
        if self._arm is None:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect() first")
        return self._arm

"""What LeRobot's command line asks of `--env.type=gymnast`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE

from gymnast_core.environments import IMAGINATION, STATION
from gymnast_core.station_file import open_station

BRIDGE = 7
"""Numbers of an action, and of a measured state."""


@EnvConfig.register_subclass("gymnast")
@dataclass
class GymnastEnv(EnvConfig):
    """One task of a station file, on its simulation or in its world model."""

    task: str | None = None
    """A task of the station; None: its first."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    where: str = "station"  # LeRobot's command line reads no Literal
    """"station": on the simulated station; "imagination": in the station's world model, from `frames`."""
    frames: list[str] = field(default_factory=list)
    """Where imagination begins: pictures, films or logged episodes, `SOURCE` or `SOURCE:INDEX`."""
    episode_length: int = 0
    """Steps after which an episode ends; 0: as the task says."""
    render_mode: str = "rgb_array"

    def __post_init__(self) -> None:
        station = open_station(self.config).config
        if self.where not in ("station", "imagination"):
            raise ValueError(f"env.where: found '{self.where}', allowed are station and imagination")
        if not station.tasks:
            raise ValueError(f"env.config: station '{station.name}' has no task; add one under 'tasks'")
        self.task = self.task or min(station.tasks)
        self._instruction = station.task(self.task).instruction
        self.episode_length = self.episode_length or station.task(self.task).max_steps
        self.fps = max(1, round(station.arm.control_hz))
        side = station.camera.observation_size
        self.features = {
            ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(BRIDGE,)),
            "pixels": PolicyFeature(type=FeatureType.VISUAL, shape=(side, side, 3)),
        }
        self.features_map = {ACTION: ACTION, "pixels": OBS_IMAGE}
        if self.where == "station":
            self.features["agent_pos"] = PolicyFeature(type=FeatureType.STATE, shape=(BRIDGE,))
            self.features_map["agent_pos"] = OBS_STATE

    @property
    def package_name(self) -> str:
        """The module that registers the environments with gymnasium."""
        return "gymnast_core.environments"

    @property
    def gym_id(self) -> str:
        """What `gymnasium.make` is asked for."""
        return STATION if self.where == "station" else IMAGINATION

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """How it is made."""
        common = {"config": self.config, "max_steps": self.episode_length, "render_mode": self.render_mode}
        if self.where == "station":
            return {**common, "task": self.task}
        return {**common, "frames": self.frames, "instruction": self._instruction}

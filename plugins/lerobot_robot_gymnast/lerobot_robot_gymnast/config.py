"""What LeRobot's command line asks of `--robot.type=gymnast`."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("gymnast")
@dataclass(kw_only=True)
class GymnastConfig(RobotConfig):
    """Which station, and how it is reached."""

    station: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one; over ROS, the file that the station was started with."""
    over: str = "ros"  # LeRobot's command line reads no Literal
    """"ros": a running station in the ROS graph (`gymnast up`, `ros2 launch gymnast bridge.launch.py`), or
    "simulation": a simulated one in this process, which needs no ROS."""
    namespace: str = ""
    """ROS namespace of the station's nodes."""
    task: str = ""
    """Which task's start a simulated station is brought to; empty: its first."""
    seed: int = 0
    """Decides that start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over not in ("ros", "simulation"):
            raise ValueError(f"robot.over: found '{self.over}', allowed are ros and simulation")

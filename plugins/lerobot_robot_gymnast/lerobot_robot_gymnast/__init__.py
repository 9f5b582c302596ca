"""A gymnast station as a LeRobot robot, `--robot.type=gymnast`. LeRobot imports this package by its name."""

from lerobot_robot_gymnast.config import GymnastConfig
from lerobot_robot_gymnast.robot import Gymnast

__all__ = ["Gymnast", "GymnastConfig"]

"""gymnast's simulated station and world model as LeRobot environments.

Importing this package makes `--env.type=gymnast` known to LeRobot's commands; LeRobot 0.5 imports it by its name.
`make_env` is what LeRobot calls in an `env.py` on the Hub, and what a script calls.
"""

from lerobot_env_gymnast.config import GymnastEnv
from lerobot_env_gymnast.make import make_env

__all__ = ["GymnastEnv", "make_env"]

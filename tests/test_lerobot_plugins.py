"""LeRobot's own interface on our plug-ins, in LeRobot's own environment.

GYMNAST_LEROBOT_PYTHON names the Python of an environment with `lerobot` in it; without one these are skipped, since
`lerobot` wants older versions of libraries than gymnast.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT

PYTHON = os.environ.get("GYMNAST_LEROBOT_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="GYMNAST_LEROBOT_PYTHON names no environment with lerobot in it")

ENV = """
import lerobot_env_gymnast
from lerobot.configs.types import FeatureType
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.envs.utils import add_envs_task, env_to_policy_features, preprocess_observation

config = EnvConfig.get_choice_class("gymnast")(task="close_drawer", episode_length=3)
features = env_to_policy_features(config)
assert {name: one.shape for name, one in features.items()} == {
    "action": (7,), "observation.image": (3, 128, 128), "observation.state": (7,)
}, features
(env,) = make_env(config, n_envs=2)["gymnast"].values()
observation, _ = env.reset(seed=[1, 2])
observation = add_envs_task(env, preprocess_observation(observation))
assert observation["observation.image"].shape == (2, 3, 128, 128) and observation["observation.state"].shape == (2, 7)
assert list(observation["task"]) == ["close the drawer"] * 2
for step in range(3):
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
assert truncated.all() and "is_success" in info, info
env.close()
(suite,) = lerobot_env_gymnast.make_env(n_envs=1).values()
assert sorted(suite) == [0, 1] and suite[1].call("task") == ("open_drawer",)
"""

ROBOT = """
from lerobot.datasets.utils import build_dataset_frame, hw_to_dataset_features
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.utils.errors import DeviceNotConnectedError
from lerobot.utils.import_utils import register_third_party_plugins

register_third_party_plugins()
config = RobotConfig.get_choice_class("gymnast")(id="bench", over="simulation", task="close_drawer", seed=3)
robot = make_robot_from_config(config)
features = {
    **hw_to_dataset_features(robot.action_features, "action"),
    **hw_to_dataset_features(robot.observation_features, "observation"),
}
assert features["observation.images.camera"]["shape"] == (128, 128, 3), features
assert features["action"]["names"] == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
try:
    robot.get_observation()
    raise SystemExit("looked without being connected")
except DeviceNotConnectedError:
    pass
with robot:
    before = robot.get_observation()
    frame = build_dataset_frame(features, before, prefix="observation")
    assert frame["observation.state"].shape == (7,) and frame["observation.images.camera"].shape == (128, 128, 3)
    sent = robot.send_action(dict.fromkeys(robot.action_features, 0.0) | {"x": 0.02, "gripper": 1.0})
    after = robot.get_observation()
    assert sent["x"] == 0.02 and after["x"] > before["x"] + 0.005, (before["x"], after["x"])
assert not robot.is_connected
"""


@pytest.mark.parametrize("script", [ENV, ROBOT], ids=["environment", "robot"])
def test_lerobot_takes_the_station_for_one_of_its_own(script: str, tmp_path: Path) -> None:
    plugins = [ROOT / "plugins" / name for name in ("lerobot_env_gymnast", "lerobot_robot_gymnast")]
    for name in ("lerobot_robot_gymnast",):  # what an installation leaves behind, by which LeRobot finds plug-ins
        written = tmp_path / f"{name}-0.1.0.dist-info"
        written.mkdir()
        (written / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    paths = [str(ROOT), *map(str, plugins), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([PYTHON, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

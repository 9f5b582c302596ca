"""LeRobot's own interface on our plug-ins, in LeRobot's own environment.

Without such an environment (tests.lerobot_environment) these are skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.cli import main
from gymnast_core.data.episode import Episode, write_episode
from tests.lerobot_environment import MISSING, lerobot_is_there, lerobot_python
from tests.processes import ROOT

pytestmark = pytest.mark.skipif(not lerobot_is_there(), reason=MISSING)

ENV = """
import draccus
import lerobot_env_gymnast
from lerobot.configs.types import FeatureType
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.envs.utils import add_envs_task, env_to_policy_features, preprocess_observation

words = {"type": "gymnast", "task": "close_drawer", "episode_length": 3, "where": "station", "frames": []}
config = draccus.decode(EnvConfig, words)  # as the command line's options are read
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


def in_lerobot(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """LeRobot's Python with our plug-ins, as an installation makes them known to it. folder: for what it leaves."""
    plugins = [ROOT / "plugins" / name for name in ("lerobot_env_gymnast", "lerobot_robot_gymnast")]
    written = folder / "lerobot_robot_gymnast-0.1.0.dist-info"
    written.mkdir(exist_ok=True)
    (written / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_robot_gymnast\nVersion: 0.1.0\n")
    paths = os.pathsep.join(map(str, (ROOT, *plugins, folder)))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([lerobot_python(), *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("script", [ENV, ROBOT], ids=["environment", "robot"])
def test_lerobot_takes_the_station_for_one_of_its_own(script: str, tmp_path: Path) -> None:
    done = in_lerobot(["-c", script], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


REPLAY = """
import sys
import numpy as np
from lerobot.scripts import lerobot_replay
from lerobot_robot_gymnast.robot import Gymnast

sent = []
send = Gymnast.send_action
Gymnast.send_action = lambda robot, action: sent.append(send(robot, action)) or sent[-1]
lerobot_replay.main()
np.save("sent.npy", [list(action.values()) for action in sent])
"""


def test_lerobot_replays_our_episode_on_the_station(tmp_path: Path) -> None:
    """A logged episode of the drawer, converted, and played by LeRobot's own verb."""
    random = np.random.default_rng(2)
    actions = random.uniform(-0.02, 0.02, (6, 7)).astype(np.float32)
    actions[:, 6] = 1
    frames = random.integers(0, 255, (7, 48, 48, 3), np.uint8)
    states = np.zeros((7, 7), np.float32)
    stamps = np.arange(7) * 200_000_000
    write_episode(tmp_path / "in" / "e", Episode("close the drawer", frames, actions, actions, states, stamps, True))
    out = tmp_path / "out"
    words = ["data", "convert", str(tmp_path / "in"), "--to", "lerobot", "--out", str(out), "--workers", "1"]
    assert main([*words, "--frames", "pictures"]) == 0
    robot = ["--robot.type=gymnast", "--robot.id=bench", "--robot.over=simulation", "--robot.task=close_drawer"]
    data = ["--dataset.repo_id=local/ours", f"--dataset.root={out}", "--dataset.episode=0", "--play_sounds=false"]
    done = in_lerobot(["-c", REPLAY, *robot, *data], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    sent = np.load(tmp_path / "sent.npy")
    np.testing.assert_allclose(sent[:6], actions, atol=1e-6)
    np.testing.assert_allclose(sent[6], [0, 0, 0, 0, 0, 0, 1], atol=1e-6)  # the last row moves nothing

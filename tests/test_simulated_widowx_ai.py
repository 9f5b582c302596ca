"""A second arm in the same scenes: the WidowX AI of its vendor's package, driven by its own description."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.protocols import Start
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.kinematics import forward_kinematics
from gymnast_core.simulation import scene
from gymnast_core.simulation.arm_body import BODIES, arm_body
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.expert import ExpertPolicy
from gymnast_core.simulation.simulator import SimulatedStation
from tests.contract import keeps_the_contract
from tests.domains import free_domain, isolate

STATION = Path(__file__).resolve().parent.parent / "robot_configs" / "simulated_widowx_ai.yaml"
WXAI = arm_model("wxai")
needs_the_package = pytest.mark.skipif(
    importlib.util.find_spec("trossen_arm_sim") is None, reason="trossen-arm-sim is not installed"
)


@needs_the_package
def test_the_vendors_model_is_the_description() -> None:
    """Kinematics, limits and gripper of `wxai.yaml` against the vendor's MJCF."""
    station = SimulatedStation(load_config(StationConfig, STATION))
    random = np.random.default_rng(0)
    for joints in random.uniform(WXAI.lower, WXAI.upper, (20, 6)):
        station.place_arm(joints)
        np.testing.assert_allclose(station.end_effector(), forward_kinematics(joints, WXAI), atol=1e-6)
    ranges = np.array([station.model.joint(name).range for name in WXAI.names])
    np.testing.assert_allclose(ranges, np.stack([WXAI.lower, WXAI.upper], axis=1), atol=1e-5)
    for finger in arm_body(WXAI).fingers:
        np.testing.assert_allclose(station.model.joint(finger).range, [WXAI.gripper.closed, WXAI.gripper.open])
    for opening in (0.0, 1.0):
        station.place_arm(np.array(WXAI.down_pose), opening)
        station.advance(0.1)
        assert station.joint_state()[0][7] == pytest.approx(0.044 * opening, abs=0.002)


@needs_the_package
@pytest.mark.parametrize("task", ["open_drawer", "close_drawer"])
def test_the_expert_does_the_tasks_of_the_drawer_with_it(task: str) -> None:
    """Contacts, gripper, envelope and guard work together: nothing is written for one arm alone."""
    environment = StationEnvironment(load_config(StationConfig, STATION))
    expert = ExpertPolicy(environment)
    instruction = task.replace("_", " the ")
    frames = environment.reset([Start(instruction, None, task, 3)])
    assert frames.shape == (1, 128, 128, 3) and frames.std() > 10
    for _ in range(30):
        environment.step(expert.act(frames, [instruction]))
    assert environment.station(0).success(task)


@needs_the_package
def test_the_simulated_arm_keeps_the_contract(tmp_path: Path) -> None:
    content = yaml.safe_load(STATION.read_text(encoding="utf-8"))
    content["arm"]["reset_seconds"] = 1.0
    path = tmp_path / "ai.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    keeps_the_contract(path, {**isolate(free_domain()), "GYMNAST_STATE": str(tmp_path / "state")})


def test_what_is_missing_or_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(scene.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install trossen-arm-sim"):
            scene.mujoco_model(scene.SCENES / "drawer.xml", BODIES["wxai"])
    mine = tmp_path / "mine.yaml"
    mine.write_text((scene.SCENES.parent.parent / "robot" / "arms" / "wxai.yaml").read_text("utf-8"), "utf-8")
    with pytest.raises(ConfigError, match=r"arm.model: found 'mine', but simulated are: wx250s, wxai"):
        arm_body(arm_model(str(mine)))
    station = load_config(StationConfig, STATION)
    with pytest.raises(ConfigError, match=r"arm.driver: found trossen with a simulation section"):
        dataclasses.replace(station, arm=dataclasses.replace(station.arm, driver="trossen"))

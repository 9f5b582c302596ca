"""An arm's figures have one place, its description; nothing that drives an arm has figures of its own."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest

import gymnast_core
from gymnast_core.config import ArmConfig, SafetyConfig, StationConfig, load_config
from gymnast_core.doctor import check_reach
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.robot import believed, guard, identity, kinematics, safety
from gymnast_core.robot.arm_model import ARMS, WX250S, ArmModel, arm_model
from gymnast_core.robot.bridge import DOWN_ROTATION
from gymnast_core.robot.controller import BridgeController
from gymnast_core.robot.identity import ArmLimits, check_limits

ARM_NAMES = sorted(path.stem for path in ARMS.glob("*.yaml"))
EXAMPLE = (ARMS / "wx250s.yaml").read_text(encoding="utf-8")
ROOT = Path(__file__).resolve().parent.parent
START = (0.28, 0.0, 0.12)
VENDOR_SCREWS = [
    [0, 0, 1, 0, 0, 0],
    [0, 1, 0, -0.11065, 0, 0],
    [0, 1, 0, -0.36065, 0, 0.04975],
    [1, 0, 0, 0, 0.36065, 0],
    [0, 1, 0, -0.36065, 0, 0.29975],
    [1, 0, 0, 0, 0.36065, 0],
]
"""The vendor's table for the wx250s (interbotix_xs_modules, mr_descriptions.py)."""


def test_the_links_of_the_wx250s_give_the_vendors_screw_axes_bit_for_bit() -> None:
    screws, home = kinematics.screw_axes(WX250S)
    np.testing.assert_array_equal(screws, VENDOR_SCREWS)
    np.testing.assert_array_equal(home[:3], [[1, 0, 0, 0.458325], [0, 1, 0, 0], [0, 0, 1, 0.36065]])
    assert not np.signbit(screws[screws == 0]).any()


@pytest.mark.parametrize("name", ARM_NAMES)
def test_each_arm_reaches_down_and_its_kinematics_are_its_own(name: str) -> None:
    """Inverse undoes forward, the Jacobian is the derivative, and the gripper points down at a start of its own."""
    arm = arm_model(name)
    random = np.random.default_rng(0)
    for joints in random.uniform(arm.lower, arm.upper, (20, 6)):
        target = kinematics.forward_kinematics(joints, arm)
        near = joints + random.uniform(-0.1, 0.1, 6)
        found = kinematics.solve_ik(target, near, max_iterations=200, arm=arm)
        assert ((found.joints >= arm.lower) & (found.joints <= arm.upper)).all()
        if found.converged:
            np.testing.assert_allclose(kinematics.forward_kinematics(found.joints, arm), target, atol=2e-4)
        step = 1e-6
        moved = [kinematics.forward_kinematics(joints + step * unit, arm)[:3, 3] for unit in np.eye(6)]
        slope = (np.array(moved) - target[:3, 3]).T / step
        np.testing.assert_allclose(kinematics.geometric_jacobian(joints, arm)[:3], slope, atol=1e-5)
    controller = BridgeController(ArmConfig(model=name, start_position=START), SafetyConfig())
    pose = kinematics.forward_kinematics(controller.start_joints(), arm)
    np.testing.assert_allclose(pose[:3, :3], DOWN_ROTATION, atol=1e-3)
    np.testing.assert_allclose(pose[:3, 3], START, atol=1e-4)
    down = kinematics.forward_kinematics(np.array(arm.down_pose), arm)
    assert down[2, 0] < -0.99 and 0.1 < down[0, 3] < 0.5, "down_pose points down, over the table"


@pytest.mark.parametrize("name", ARM_NAMES)
def test_an_arm_is_refused_by_the_others_name(name: str) -> None:
    arm = arm_model(name)
    limits = ArmLimits(tuple(arm.lower), tuple(arm.upper), arm.gripper.closed, arm.gripper.open)
    check_limits(limits, arm)
    for other in ARM_NAMES:
        if other != name:
            with pytest.raises(StationError, match=f"this is no {arm_model(other).title}: .*robot_model {other}"):
                check_limits(limits, arm_model(other))


@pytest.mark.parametrize(
    ("written", "instead", "words"),
    [
        ("shadows: [shoulder_shadow, elbow_shadow]", "name: mine", "leave it out"),
        ("name: elbow,", "name: waist,", "waist stands there twice"),
        ("axis: [0, 0, 1]", "axis: [0, 0, 2]", r"waist.axis: found \[0.0, 0.0, 2.0\]"),
        ("upper: 1.989675", "upper: -2.0", "shoulder: lower -1.88496 is not below upper -2"),
        ("sleep_pose: [0.0, -1.80", "sleep_pose: [0.0, -1.90", "sleep_pose: shoulder at -1.9 is outside"),
        ("unit: mA", "unit: A", "effort.unit"),
        ("open: 0.037", "open: 0.01", "closed 0.015 is not below open 0.01"),
        ("title: WidowX 250s\n", "", "title"),
    ],
)
def test_a_description_of_ones_own_is_read_and_checked(tmp_path: Path, written: str, instead: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    mine = arm_model(str(path))
    assert mine.name == "mine" and mine.names == WX250S.names
    assert written in EXAMPLE
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(EXAMPLE.replace(written, instead), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        arm_model(str(wrong))


def test_an_unknown_arm_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"arm.model: found 'wx200', .* one of: .*wx250s"):
        arm_model("wx200")


def _take_an_arm() -> dict[str, int]:
    """The functions and classes of `robot` that take an arm, and which argument it is."""
    found = {}
    for module in (kinematics, identity, believed, guard, safety):
        for name, thing in vars(module).items():
            ours = getattr(thing, "__module__", "") == module.__name__ and callable(thing)
            if ours and not (isinstance(thing, type) and issubclass(thing, Exception)):
                parameters = list(inspect.signature(thing).parameters.values())
                defaults = [parameter.default for parameter in parameters]
                if WX250S in defaults:
                    found[name] = defaults.index(WX250S)
    return found


def test_whoever_drives_an_arm_says_which() -> None:
    """The default is for goldens and notebooks: no code that drives an arm leaves it out, or knows a joint's name."""
    takes = _take_an_arm()
    assert {"forward_kinematics", "solve_ik", "check_limits", "BelievedArm", "ArmGuard"} <= takes.keys()
    roots = [Path(gymnast_core.__file__).parent, ROOT / "ros2_ws" / "src" / "gymnast_nodes" / "gymnast_nodes"]
    for path in (path for root in roots for path in root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            if (position := takes.get(call.func.id)) is not None and path.name != "kinematics.py":
                said = len(call.args) > position or any(word.arg == "arm" for word in call.keywords)
                assert said, f"{path}:{call.lineno}: {call.func.id} without an arm"
        borrowed = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gymnast_core.robot")
            for alias in node.names
        } & {"JOINT_NAMES", "JOINT_LOWER", "JOINT_UPPER", "JOINT_SPEED", "MOTORS", "SHADOWS", "LIMIT_C"}
        assert not borrowed, f"{path} takes {borrowed} of one arm"
        if path.parent.name == "robot" and path.suffix == ".py":
            names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & {*WX250S.motors[:6]}
            assert not names, f"{path} knows joints by name: {names}"


def test_effort_limits_are_in_the_arms_unit() -> None:
    np.testing.assert_array_equal(WX250S.effort_limits(1500.0), [1500] * 5 + [2286.5])
    np.testing.assert_array_equal(WX250S.effort_limits(3000.0), [3000] * 6)
    for arm in map(arm_model, ARM_NAMES):
        assert isinstance(arm, ArmModel) and (arm.effort_limits(1500.0) <= arm.effort.largest).all()


def test_the_arms_own_figures_bound_the_envelope() -> None:
    """A station file may allow more than the arm can do: the arm's joint speed and reach decide."""
    fast = SafetyConfig(max_joint_speed=3.142)
    for arm in map(arm_model, ARM_NAMES):
        assert safety.SafetyEnvelope(fast, 5.0, arm).config.max_joint_speed == arm.joint_speed
    assert safety.SafetyEnvelope(SafetyConfig(max_joint_speed=1.0), 5.0, WX250S).config.max_joint_speed == 1.0
    high = (0.258325, 0.0, 0.19065)  # a WidowX AI's wrist does not bend far enough there
    BridgeController(ArmConfig(start_position=high), SafetyConfig())
    with pytest.raises(ConfigError, match=r"arm.start_position: .* out of reach with the gripper pointing down"):
        BridgeController(ArmConfig(model="wxai", start_position=high), SafetyConfig())
    station = load_config(StationConfig, ROOT / "robot_configs" / "simulated_widowx_ai.yaml")
    assert check_reach(station).status == "ok"
    beyond = dataclasses.replace(station, arm=dataclasses.replace(station.arm, start_position=(0.4, 0.19, 0.134)))
    found = check_reach(beyond)
    assert found.status == "missing" and "out of reach" in found.detail

"""A WidowX 250s as its vendor describes it passes; any other X-Series arm is refused by what differs."""

from __future__ import annotations

import math

import pytest

from gymnast_core.errors import StationError
from gymnast_core.robot.arm_model import WX250S
from gymnast_core.robot.identity import ArmLimits, check_description, check_limits, check_motor_models
from gymnast_core.robot.kinematics import JOINT_NAMES

TURN = math.pi - 1e-5


def limits(shoulder: tuple, elbow: tuple, wrist: tuple, finger: tuple) -> ArmLimits:
    """Degrees, and metres for the finger; the other joints go all the way round."""
    pairs = [(-TURN, TURN), shoulder, elbow, (-TURN, TURN), wrist, (-TURN, TURN)]
    pairs = [pair if abs(pair[0]) < 4 else tuple(math.radians(x) for x in pair) for pair in pairs]
    return ArmLimits(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), *finger)


WIDOWX = limits((-108, 114), (-123, 92), (-100, 123), (0.015, 0.037))
VIPERX = limits((-106, 72), (-101, 92), (-107, 128), (0.021, 0.057))
ORIGINS = ("0 0 0.072", "0 0 0.03865", "0.04975 0 0.25", "0.175 0 0", "0.075 0 0", "0.065 0 0")


def description(*origins: str, names: tuple[str, ...] = JOINT_NAMES) -> str:
    joints = "".join(
        f'<joint name="{name}" type="revolute"><origin rpy="0 0 0" xyz="{xyz}"/></joint>'
        for name, xyz in zip(names, origins)
    )
    return f'<?xml version="1.0"?><!-- made by xacro --><robot name="arm">{joints}</robot>'


def test_the_vendors_widowx_passes_also_with_walls_and_rounding() -> None:
    assert check_limits(WIDOWX) == WIDOWX
    check_limits(limits((-108.5, 114.5), (-123, 92), (-100, 123), (0.0155, 0.0365)))
    check_limits(limits((-60, 60), (-90, 30), (-100, 90), (0.015, 0.037)))  # a wall is near
    check_description(description(*ORIGINS))
    check_description(description("0 0 0.0725", *ORIGINS[1:]))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            VIPERX,
            r"wrist_angle goes from -107 to 128 degrees instead of -100 to 123; the finger goes from 0.021 to 0.057",
        ),
        (limits((-108, 72), (-101, 92), (-100, 123), (0.021, 0.057)), "finger goes from 0.021"),
        (limits((-108, 114), (-123, 92), (-100, 123), (0.0, 0.0)), "finger"),
        (limits((-108, 114), (-123, 92), (-100, 123), (0.015, math.nan)), "finger"),
        (limits((-108, 114), (-123, 95), (-100, 123), (0.015, 0.037)), "elbow goes from -123 to 95"),
        (limits((114, -108), (-123, 92), (-100, 123), (0.015, 0.037)), "shoulder"),
        (ArmLimits((), (), 0.015, 0.037), "no joint limits"),
    ],
)
def test_other_limits_are_refused_by_name(found: ArmLimits, words: str) -> None:
    with pytest.raises(StationError, match=words):
        check_limits(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            description("0 0 0.079", "0 0 0.04805", "0.05955 0 0.3", "0.2 0 0", "0.1 0 0", "0.069744 0 0"),
            "elbow stands at",
        ),
        (description("0 0 0.104825", *ORIGINS[1:]), "waist stands at 0 0 0.104825 m instead of 0 0 0.072"),
        (description(*ORIGINS[:5]), "no joint wrist_rotate"),
        (description(*ORIGINS[:5], "0.065 0"), "wrist_rotate"),
        (description(*ORIGINS[:5], "nan 0 0"), "wrist_rotate"),
        ("<robot", "is no XML"),
        ('<!DOCTYPE x [<!ENTITY a "a">]><robot/>', "entities"),
    ],
)
def test_other_links_are_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(StationError, match=words):
        check_description(text)


def test_other_motors_are_refused_by_name() -> None:
    """A ViperX has XM540s in its strong joints; what the driver does not tell is not compared."""
    own = {name: WX250S.motor_models[name][0] for name in WX250S.motors}
    check_motor_models(own)
    check_motor_models({"gripper": 1060})
    check_motor_models({})
    viper = {**own, "waist": 1120, "shoulder": 1120, "gripper": 7}
    words = r"this is no WidowX 250s: waist has a motor of model 1120 \(XM540-W270\) instead of 1020 \(XM430-W350\); "
    with pytest.raises(StationError, match=words + r"shoulder .*; gripper has a motor of model 7 instead of 1060"):
        check_motor_models(viper)

"""What an arm is called in its MuJoCo model: joints, motors, fingers; and how its motors are driven there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gymnast_core.errors import ConfigError
from gymnast_core.robot.arm_model import ArmModel


@dataclass(frozen=True)
class ArmBody:
    """Names in the model. The six joints are called as in the arm's description, and so are their motors.

    fingers: two joints that move alike; the first is the one that the description names.
    gripper: the gripper's motor. gripper_drive: whether it takes a force, newtons, or a position, metres.
    end_effector: a site with the description's frame. touching: bodies that count as the gripper.
    torque_constants: newton metres of each motor an ampere, where the driver reports milliamperes; none: it reports
        newton metres.
    package: the vendor's Python package that holds the model, and the file in it; none: the scenes' own.
    horn: radius and arm of the lever that moves the finger, metres; none: nothing turns.
    """

    fingers: tuple[str, str]
    gripper: str
    gripper_drive: Literal["force", "position"]
    end_effector: str
    touching: tuple[str, ...]
    torque_constants: tuple[float, ...] | None = None
    package: tuple[str, str] | None = None
    horn: tuple[float, float] | None = None


BODIES = {
    "wx250s": ArmBody(
        fingers=("left_finger", "right_finger"),
        gripper="gripper",
        gripper_drive="force",
        end_effector="end_effector",
        touching=("gripper_link", "left_finger_link", "right_finger_link"),
        torque_constants=(1.793, 1.793, 1.793, 0.897, 0.897, 0.897),
        horn=(0.014, 0.024),
    ),
    "wxai": ArmBody(
        fingers=("left_carriage_joint", "right_carriage_joint"),
        gripper="left_gripper",
        gripper_drive="position",
        end_effector="ee_site",
        touching=("link_6", "carriage_left", "carriage_right"),
        package=("trossen_arm_sim", "assets/wxai_follower.xml"),
    ),
}


def arm_body(arm: ArmModel) -> ArmBody:
    """Raises: ConfigError for an arm of which there is no simulation."""
    if arm.name not in BODIES:
        raise ConfigError(
            f"arm.model: found '{arm.name}', but simulated are: {', '.join(BODIES)}; leave out `simulation`"
        )
    return BODIES[arm.name]

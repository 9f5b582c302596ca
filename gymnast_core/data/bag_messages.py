"""What single messages of a bag mean: pictures, Bridge actions, poses, the gripper, the instruction.

A message of another type is refused by its topic: what it holds is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gymnast_core.config import BagConfig
from gymnast_core.data.bag_reader import Message
from gymnast_core.data.episode import ACTION_DIM
from gymnast_core.data.ros_images import image_to_frame
from gymnast_core.errors import DataError

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
PICTURES = (RAW, COMPRESSED)
BRIDGE = "gymnast_msgs/msg/BridgeAction"
ACTIONS = ("std_msgs/msg/Float32MultiArray", "std_msgs/msg/Float64MultiArray", BRIDGE)
POSES = ("geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/Pose", "geometry_msgs/msg/TransformStamped")
JOINTS = "sensor_msgs/msg/JointState"
GRIPPERS = ("std_msgs/msg/Float32", "std_msgs/msg/Float64", JOINTS)
TEXTS = ("std_msgs/msg/String",)
HINTS = {
    JOINTS: "joint angles",
    "trajectory_msgs/msg/JointTrajectory": "joint angles",
    "geometry_msgs/msg/PoseStamped": "places; `actions_from: poses` makes steps of them",
    "geometry_msgs/msg/Pose": "places; `actions_from: poses` makes steps of them",
    "geometry_msgs/msg/Twist": "velocities",
    "geometry_msgs/msg/TwistStamped": "velocities",
    RAW: "pictures",
    COMPRESSED: "pictures",
}
LENGTH_ERROR = 0.01
"""Of a quaternion, which has length 1."""
BEYOND = 0.1
"""A gripper is measured beyond its ends by at most this share of its range."""


def check_topic(topics: Mapping[str, tuple[str, int]], name: str, setting: str, allowed: Sequence[str]) -> None:
    """Raises: DataError, without the bag's name, where the topic that `setting` names is absent or of another type."""
    if name not in topics:
        listed = ", ".join(sorted(topics))[:200] or "none"
        raise DataError(f"{setting}: found no topic '{name}'; the bag has {listed}")
    kind, count = topics[name]
    if kind not in allowed:
        hint = f" ({HINTS[kind]})" if kind in HINTS else ""
        raise DataError(f"{setting}: topic '{name}': found {kind}{hint}, allowed are {', '.join(allowed)}")
    if not count:
        raise DataError(f"{setting}: topic '{name}': found no message in it")


def choose_pictures(topics: Mapping[str, tuple[str, int]], wanted: str) -> str:
    """The topic of the frames: the one that is named, whole or by its last part, or the only one.

    Raises: DataError that lists them.
    """
    found = sorted(name for name, (kind, count) in topics.items() if kind in PICTURES and count)
    if wanted:
        ends = [name for name in found if name.endswith(f"/{wanted}")]
        name = ends[0] if wanted not in topics and len(ends) == 1 else wanted
        check_topic(topics, name, "image", PICTURES)
        return name
    if len(found) != 1:
        raise DataError(f"image: found {', '.join(found) or 'no topic of pictures'}; needed one camera; name its topic")
    return found[0]


def frame_in(message: Message, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises: DataError for depth, and what `image_to_frame` refuses."""
    return image_to_frame(message.content, where)


def action_in(message: Message, where: str) -> np.ndarray:
    """(7,) float32, Bridge convention. Raises: DataError where it has another length or is not finite."""
    content = message.content
    if message.type == BRIDGE:
        values = np.array([*content.translation, *content.rotation, content.gripper], dtype=np.float32)
    else:
        values = np.asarray(content.data, dtype=np.float32)
    if values.shape != (ACTION_DIM,):
        raise DataError(f"{where}: found {values.size} numbers, needed {ACTION_DIM} (Bridge actions)")
    if not np.isfinite(values).all():
        raise DataError(f"{where}: found {values.tolist()}, needed finite numbers")
    return values


def pose_in(message: Message, where: str) -> np.ndarray:
    """(7,) float64: x, y, z in metres, and the quaternion x, y, z, w. Raises: DataError."""
    content = message.content
    if message.type == "geometry_msgs/msg/TransformStamped":
        place, turn = content.transform.translation, content.transform.rotation
    else:
        pose = content.pose if message.type.endswith("Stamped") else content
        place, turn = pose.position, pose.orientation
    values = np.array([place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w], dtype=np.float64)
    length = float(np.linalg.norm(values[3:]))
    if not np.isfinite(values).all() or abs(length - 1.0) > LENGTH_ERROR:
        raise DataError(f"{where}: found a quaternion of length {length:.3g}, needed finite numbers and length 1")
    return values


def opening_in(message: Message, config: BagConfig, where: str) -> float:
    """Opening of the gripper, 0 closed to 1 open. Raises: DataError where it lies beyond its range."""
    content = message.content
    if message.type == JOINTS:
        names = list(content.name)
        if config.gripper_joint not in names:
            raise DataError(f"{where}: gripper_joint: found no '{config.gripper_joint}'; it has {', '.join(names)}")
        index = names.index(config.gripper_joint)
        if index >= len(content.position):
            raise DataError(f"{where}: found {len(content.position)} positions for {len(names)} joints")
        value = float(content.position[index])
    else:
        value = float(content.data)
    opening = (value - config.gripper_closed) / (config.gripper_open - config.gripper_closed)
    if not -BEYOND <= opening <= 1 + BEYOND:
        allowed = f"{config.gripper_closed:g} (gripper_closed) to {config.gripper_open:g} (gripper_open)"
        raise DataError(f"{where}: found a gripper at {value:g}, allowed are {allowed}")
    return min(1.0, max(0.0, opening))

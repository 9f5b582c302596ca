"""The camera's topic, subscribed to as reliably as its publisher offers.

A frame of 640x480 pixels is 0.9 MB. A camera driver in a process of its own writes it through its own shared memory,
which Fast DDS makes half a megabyte large by default: under load pieces of frames are lost on the way, and whoever
subscribes "best effort" gets few whole ones. Where the driver offers to send lost pieces again, that is asked for.
Where it does not, only its own settings help: `advice` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image

from gymnast_core.config import CameraConfig
from gymnast_nodes.messages import PICTURE_TYPES, Picture

DEPTH = 5
PROFILE = Path(__file__).with_name("fastdds.xml")


def common_reliability(offers: Sequence[QoSProfile]) -> ReliabilityPolicy:
    """The best that every publisher offers; best effort, which fits all, where there is none yet."""
    if offers and all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers):
        return ReliabilityPolicy.RELIABLE
    return ReliabilityPolicy.BEST_EFFORT


def camera_qos(node: Node, topic: str) -> QoSProfile:
    """How to subscribe to a camera's topic now."""
    name = node.resolve_topic_name(topic)
    offers = [info.qos_profile for info in node.get_publishers_info_by_topic(name)]
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=DEPTH, reliability=common_reliability(offers))


def type_problem(node: Node, camera: CameraConfig) -> str:
    """What is wrong where the camera's topic has messages of another type; empty where it has none, or the right one.

    Such messages never arrive: a subscription of one type hears nothing of another.
    """
    name = node.resolve_topic_name(camera.topic)
    wanted = f"sensor_msgs/msg/{camera.message}"
    kinds = sorted({info.topic_type for info in node.get_publishers_info_by_topic(name)})
    if not kinds or wanted in kinds:
        return ""
    help_ = next((f"; set camera.message: {one}" for one in PICTURE_TYPES if f"sensor_msgs/msg/{one}" in kinds), "")
    return f"{camera.topic} has {' and '.join(kinds)}, the station file says {wanted} (camera.message){help_}"


def advice(node: Node, topic: str) -> str:
    """What to set where frames are lost although a driver sends them; empty where nothing is known to help."""
    if camera_qos(node, topic).reliability == ReliabilityPolicy.RELIABLE:
        return ""
    if not node.count_publishers(topic):
        return "nobody publishes it"
    told = "its publisher offers best effort only: let it publish reliably"
    if get_rmw_implementation_identifier() == "rmw_fastrtps_cpp":
        told += f", or start the driver with FASTRTPS_DEFAULT_PROFILES_FILE={PROFILE}"
    return told


class CameraSubscription:
    """A subscription that follows what the publisher offers. Methods are for the node's executor."""

    def __init__(
        self,
        node: Node,
        topic: str,
        take: Callable[[Any], None],
        callback_group: CallbackGroup | None = None,
        kind: type[Picture] = Image,
    ) -> None:
        self._node = node
        self._kind = kind
        self._topic = topic
        self._take = take
        self._group = callback_group
        self.subscription = self._subscribe(camera_qos(node, topic))

    def match(self) -> None:
        """Subscribe anew where the publisher offers something else than when it was subscribed to."""
        if self._node.count_publishers(self._topic) == 0:
            return  # what an absent one will offer is not known
        qos = camera_qos(self._node, self._topic)
        if qos.reliability != self.subscription.qos_profile.reliability:
            self.close()
            self.subscription = self._subscribe(qos)

    def close(self) -> None:
        self._node.destroy_subscription(self.subscription)

    def _subscribe(self, qos: QoSProfile) -> Any:
        return self._node.create_subscription(self._kind, self._topic, self._take, qos, callback_group=self._group)

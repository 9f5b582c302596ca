"""Names that a lab's scripts take from here; each lives in a module of its own (qos, messages, running)."""

from __future__ import annotations

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from gymnast_nodes.messages import frame_to_image, image_to_frame, to_seconds
from gymnast_nodes.qos import COMMAND_QOS, DRIVER_QOS, LATCHED_QOS
from gymnast_nodes.running import run_node

# What takes any camera's frames; the nodes themselves subscribe as the publisher offers (camera_topic).
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)

__all__ = [
    "COMMAND_QOS",
    "DRIVER_QOS",
    "LATCHED_QOS",
    "SENSOR_QOS",
    "frame_to_image",
    "image_to_frame",
    "run_node",
    "to_seconds",
]

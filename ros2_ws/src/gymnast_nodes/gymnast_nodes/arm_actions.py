"""What nodes and clients ask of the arm node, and what its answers mean."""

from __future__ import annotations

import math
import queue

from gymnast_msgs.msg import ArmState
from rclpy.node import Node

from gymnast_core.robot.guard import FRESH_S
from gymnast_nodes.calls import in_executor
from gymnast_nodes.clocks import WALL
from gymnast_nodes.messages import to_seconds
from gymnast_nodes.qos import COMMAND_QOS

ARM_WAIT_S = 1.0
"""An arm tells where it is at least twenty times a second."""


def measured_position(node: Node) -> tuple[float, float, float] | None:
    """Where arm/state says that the end effector is (x, y, z, metres, base frame), asked from a worker thread.

    None, with a warning, where no arm tells within a second, or none that knows: before its first joint state an arm
    node says zeros, and one that believes no joint states any more says where it saw the arm last, with the stamp of
    then. Raises: StationError as `in_executor` does.
    """
    told: queue.SimpleQueue[ArmState] = queue.SimpleQueue()
    subscription = in_executor(node, lambda: node.create_subscription(ArmState, "arm/state", told.put, COMMAND_QOS))
    position = (0.0, 0.0, 0.0)
    try:
        state = told.get(timeout=ARM_WAIT_S)
        stamp = to_seconds(state.header.stamp)
        if stamp == 0.0 or WALL.age(stamp) <= FRESH_S:
            place = state.pose.position
            position = (place.x, place.y, place.z)
    except queue.Empty:
        pass
    finally:
        in_executor(node, lambda: node.destroy_subscription(subscription))
    if any(position) and all(map(math.isfinite, position)):
        return position
    node.get_logger().warning("arm/state tells no position: the frame is taken as from the station's start position")
    return None


OTHER_SPEAKERS = "other_speakers"
"""What an action is refused for while somebody speaks on the arm's topics who may not (gymnast_nodes.speakers)."""
STATION_REFUSALS = frozenset(
    (
        "not_active",
        "emergency_stop",
        "resetting",
        "joint_states_stale",
        "driver_unchecked",
        OTHER_SPEAKERS,
        "stale",
        "stamp_in_future",
        "out_of_order",
        "not_the_commander",
    )
)
"""Those reasons. What the safety envelope refuses (out of reach) is the policy's doing: the episode goes on."""


MIN_SPACING = 0.6
"""Shortest time between two actions, in control periods: a slow inference is not made up for by a burst."""

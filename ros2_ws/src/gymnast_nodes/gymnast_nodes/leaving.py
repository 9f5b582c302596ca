"""How a process leaves the ROS graph.

Fast DDS 2.14 may hang in it, for ever: it waits, holding a lock, for the end of a discovery that waits for this lock.
Nothing in this process can run then, since Python's own lock is held, too.
"""

from __future__ import annotations

import faulthandler
import sys

import rclpy
from rclpy.context import Context
from rclpy.node import Node

HANG_S = 60.0
"""Leaving takes some hundredths of a second; on a machine that is crowded beyond measure, some seconds."""


def leave_graph(node: Node, context: Context | None = None) -> None:
    """Destroy a process's last node, and shut its context down (None: the default one).

    Where that hangs, the process ends after a minute with exit code 1, and says where it hung.
    """
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=sys.__stderr__)
    try:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    finally:
        faulthandler.cancel_dump_traceback_later()

"""How a process leaves the ROS graph.

Fast DDS 2.14 may hang in it, for ever: it waits, holding a lock, for the end of a discovery that waits for this lock.
Python's own lock is held meanwhile, so that nothing but the C library can end the process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import sys

import rclpy
from rclpy.context import Context
from rclpy.node import Node

LEAVE_S = 3.0
"""Leaving takes some hundredths of a second."""
HANG_S = 60.0
"""For a process that has more to do; on a machine that is crowded beyond measure leaving takes some seconds."""
_CLOCK_MONOTONIC, _SIGEV_THREAD = 1, 2


class _Event(ctypes.Structure):
    """`struct sigevent` of the C library, 64 bytes: `function` is called with `value` when the timer has run out."""

    _fields_ = (
        ("value", ctypes.c_uint64),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("rest", ctypes.c_byte * 40),
    )


def leave_at_the_end(node: Node, code: int) -> None:
    """Destroy a process's last node, and shut the default context down, as the last thing that the process does.

    Where that hangs, the process ends all the same, with exit code `code`.
    """
    end_after(LEAVE_S, code)
    node.destroy_node()
    rclpy.try_shutdown()


def leave_graph(node: Node, context: Context) -> None:
    """Destroy the last node of a context, and shut it down, in a process that has more to do.

    Where that hangs, the process ends after a minute with exit code 1, and says where it hung.
    """
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=sys.__stderr__)
    try:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_after(seconds: float, code: int) -> None:
    """End this process with an exit code, whatever it does then. A timer of the C library calls its `_exit`."""
    library = ctypes.CDLL(None, use_errno=True)
    function = ctypes.cast(library._exit, ctypes.c_void_p)
    event, timer = _Event(code, 0, _SIGEV_THREAD, function), ctypes.c_void_p()
    when = (ctypes.c_long * 4)(0, 0, int(seconds), int(seconds % 1 * 1e9))  # struct itimerspec: once, after this time
    if library.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) == 0:
        library.timer_settime(timer, 0, ctypes.byref(when), None)

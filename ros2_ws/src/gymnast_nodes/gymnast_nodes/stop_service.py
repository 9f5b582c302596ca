"""arm/emergency_stop, served by every process that can hold the arm, latched on the disk.

The arm node and the watchdog both serve it, so the first answer comes from whichever is alive; and both look at the
latch's file, so that a stop which only one of them heard, or `gymnast stop` wrote, stops the other within 0.1 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gymnast_msgs.srv import EmergencyStop
from rclpy.node import Node

from gymnast_core.errors import DataError
from gymnast_core.robot.stop_latch import StopLatch

LOOK_PERIOD_S = 0.1
"""The latch's file is looked at this often."""
WRITTEN_S = 0.07
"""An answer waits this long for the disk; a slower disk does not keep the arm from being held."""


class StopService:
    """The emergency stop of one process.

    hold: command the arm to stay where it is; False where that is not known. stopped: what else to do, with the reason.
    """

    def __init__(self, node: Node, latch: StopLatch, hold: Callable[[], bool], stopped: Callable[[str], None]) -> None:
        self.latch = latch
        self._node = node
        self._hold = hold
        self._stopped = stopped
        self._looked_at = time.monotonic()
        self._writing: threading.Thread | None = None
        latch.register()
        self.reason = latch.reason
        """Why the arm is stopped, as far as this process knows; empty when it is not."""
        self.problem = ""
        """Why the stop is not on the disk; empty when it is."""
        node.create_service(EmergencyStop, "arm/emergency_stop", self._on_request)
        if self.reason:
            node.get_logger().error(f"the arm is stopped since before this start: {self.reason}; see `gymnast rearm`")

    def look(self) -> None:
        """Notice a stop that another process latched, and its release."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_PERIOD_S:
            return
        self._looked_at = now
        if self._writing is not None and self._writing.is_alive():
            return
        if not self.latch.is_set:
            if not self.problem:
                self.reason = ""
        elif not self.reason:
            self.reason = self.latch.reason or "emergency stop"
            self._node.get_logger().error(f"emergency stop: {self.reason}")
            self._hold()
            self._stopped(self.reason)

    def write(self, reason: str) -> bool:
        """Latch it on the disk; whether that is done within WRITTEN_S. A thread goes on with it otherwise."""
        self.reason = reason
        done: list[bool] = []

        def work() -> None:
            try:
                self.latch.set(reason)
                self.problem = ""
                done.append(True)
            except DataError as error:
                self.problem = str(error)
                self._node.get_logger().error(f"the stop is latched in memory only: {error}")

        self._writing = threading.Thread(target=work, name="stop latch", daemon=True)
        self._writing.start()
        self._writing.join(WRITTEN_S)
        return bool(done)

    def release(self, seen: tuple[int, int] | None) -> None:
        """The arm was re-armed, with a look at the stop that was `seen` (see `StopLatch.mark`).

        Raises: DataError when the file stays, or another stop was latched since.
        """
        if self.latch.is_set and self.latch.mark() != seen and self.latch.reason != self.reason:
            raise DataError(f"stopped again while it was re-armed: {self.latch.reason}")
        self.latch.clear()
        self.reason = self.problem = ""

    def _on_request(self, request: EmergencyStop.Request, response: EmergencyStop.Response) -> EmergencyStop.Response:
        """Hold first; then latch."""
        held = self._hold()
        reason = request.reason or "emergency stop"
        self._stopped(reason)
        response.success = held
        response.latched = self.write(reason)
        told = ["held" if held else "there are no fresh joint states to hold at"]
        if response.latched:
            told.append("latched")
        else:
            told.append(f"latched in memory only: {self.problem or 'the disk has not confirmed it yet'}")
        response.message = " and ".join(told) if held else f"{told[1]}, but {told[0]}"
        self._node.get_logger().error(f"emergency stop: {reason}")
        return response

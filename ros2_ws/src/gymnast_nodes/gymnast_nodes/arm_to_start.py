"""The arm brought to its start pose, or near it, for one goal of the evaluator."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnast_msgs.srv import Rearm, ResetArm

from gymnast_nodes.calls import call_service
from gymnast_nodes.commander import commander_name
from gymnast_nodes.long_action import Goal

if TYPE_CHECKING:
    from gymnast_nodes.ros_bench import StationClients

FAULT_LATCH = re.compile(r"\b\d+ faults\b")
"""How arm node and watchdog say that repeated faults, not a person, have latched the stop."""
PASSES_S = 1.0
"""What hinders the arm is given this long to pass."""


class ArmToStart:
    """For one goal; a cancel of it ends every wait."""

    def __init__(self, clients: StationClients, goal: Goal[Any]) -> None:
        self._clients = clients
        self._goal = goal

    def __call__(self, offset: np.ndarray) -> str:
        """The arm to its start pose, moved by `offset` (3,), metres; what is wrong, in words, after a moment in which
        it may pass. Raises: StationError when nobody answers; Cancelled."""
        request = ResetArm.Request(commander=commander_name(self._clients.node), offset=offset.astype(np.float32))
        answer = call_service(self._clients.reset_arm, request, 60.0, lambda: self._goal.cancelled)
        if answer.success:
            return ""
        self._rearm_simulated(answer.message)
        self._goal.sleep_until(time.monotonic() + PASSES_S)
        return f"arm reset: {answer.message}"

    def _rearm_simulated(self, why: str) -> None:
        """A simulated arm that repeated faults have stopped is armed again; a real one, and an emergency stop, wait
        for a person."""
        if self._clients.station.simulation is None or not FAULT_LATCH.search(why):
            return
        self._clients.node.get_logger().warning(f"simulated arm re-armed: {why}")
        call_service(self._clients.rearm, Rearm.Request(confirm=True), 10.0, lambda: self._goal.cancelled)

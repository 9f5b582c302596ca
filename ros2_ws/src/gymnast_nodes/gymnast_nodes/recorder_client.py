"""The recorder as the executor uses it: one recording at a time, and no action that it would not log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.srv import StartRecording, StopRecording
from rclpy.node import Node

from gymnast_core.data.outcome import OUTCOMES
from gymnast_core.errors import GymnastError, StationError
from gymnast_nodes.calls import call_service
from gymnast_nodes.long_action import Goal
from gymnast_nodes.qos import COMMAND_QOS

SILENT_S = 0.15
"""No action is sent when the recorder (which speaks every 50 ms) has been silent for longer."""
LOST_S = 1.0
"""After this long the episode is given up."""
START_S = 5.0
STOP_S = 8.0
"""The recorder waits for answers that are still on their way."""


class RecorderClient:
    """For one node; its methods are for other threads than the executor's."""

    def __init__(self, node: Node) -> None:
        self._status: tuple[DiagnosticStatus, float] | None = None
        self._recording = ""
        node.create_subscription(DiagnosticStatus, "recorder/status", self._on_status, COMMAND_QOS)
        self._start = node.create_client(StartRecording, "recorder/start")
        self._stop = node.create_client(StopRecording, "recorder/stop")

    @property
    def problem(self) -> str:
        """Why nothing can be recorded; empty when it can."""
        if self._status is None or time.monotonic() - self._status[1] > LOST_S:
            return "recorder: silent; is the recorder node active?"
        return ""

    def start(self, goal: Goal[Any], episode_id: str, instruction: str, facts: Mapping[str, Any]) -> str:
        """Begin to record; returns the episode's folder. Raises: StationError; Cancelled."""
        request = StartRecording.Request(episode_id=episode_id, instruction=instruction)
        request.metadata_json = json.dumps(facts)
        answer = call_service(self._start, request, START_S, lambda: goal.cancelled)
        if not answer.success:
            raise StationError(f"recorder: {answer.message}")
        self._recording = episode_id
        return str(answer.path)

    def wait_until_logging(self, goal: Goal[Any]) -> None:
        """Return as soon as the recorder is known to log the episode. Raises: StationError, Cancelled."""
        begun = time.monotonic()
        while True:
            if self._status is not None and self._status[0].hardware_id == self._recording:
                status, arrived = self._status
                if status.level != DiagnosticStatus.OK:
                    self._recording = ""
                    raise StationError(f"recorder: {status.message}")
                if time.monotonic() - arrived < SILENT_S:
                    return
            if time.monotonic() - begun > LOST_S:
                raise StationError(f"recorder: silent for {LOST_S:g} s; nothing would be logged")
            goal.sleep_until(time.monotonic() + 0.01)

    def stop(self, outcome: int, reason: str) -> str:
        """End the recording, where one was begun and has not failed; returns what went wrong, or an empty text."""
        episode_id, self._recording = self._recording, ""
        if not episode_id:
            return ""
        facts = {"outcome": OUTCOMES[outcome], "reason": reason}
        request = StopRecording.Request(episode_id=episode_id, outcome_json=json.dumps(facts))
        try:
            answer = call_service(self._stop, request, STOP_S)
        except GymnastError as error:
            return f"recorder: {error}"
        return f"recorder: {answer.message}" if answer.message else ""

    def _on_status(self, message: DiagnosticStatus) -> None:
        self._status = (message, time.monotonic())

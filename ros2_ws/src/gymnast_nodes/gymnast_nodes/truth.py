"""The station's own truth by frame, for the log alone: topic station/truth, diagnostic_msgs/DiagnosticArray.

Its stamp is that of the camera frame that it belongs to. It holds a status for each task, named by the task, with the
value `success`: "true" or "false". The simulated station publishes it; a real one may, where a sensor knows.
"""

from __future__ import annotations

from collections.abc import Mapping

from builtin_interfaces.msg import Time as TimeMessage
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

TRUTH_TOPIC = "station/truth"
WORDS = {"true": True, "false": False}


def truth_message(stamp: TimeMessage, done: Mapping[str, bool]) -> DiagnosticArray:
    """done: whether each task is done at that moment."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    for task, value in done.items():
        values = [KeyValue(key="success", value=str(bool(value)).lower())]
        message.status.append(DiagnosticStatus(level=DiagnosticStatus.OK, name=task, values=values))
    return message


def truth_of(message: DiagnosticArray, task: str) -> bool | None:
    """Whether the task is done, None where the message does not say."""
    values = [
        pair.value
        for status in message.status
        for pair in status.values
        if (status.name, pair.key) == (task, "success")
    ]
    return WORDS.get(values[0].lower()) if len(values) == 1 else None

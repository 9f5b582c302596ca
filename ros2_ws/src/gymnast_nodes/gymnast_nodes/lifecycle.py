"""The lifecycle base of every managed node, with heartbeat and diagnostics."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from gymnast_msgs.msg import NodeStatus
from lifecycle_msgs.msg import State
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from gymnast_core.config import StationConfig
from gymnast_core.errors import GymnastError
from gymnast_nodes.clocks import WALL, SteadyNode
from gymnast_nodes.distributions import RCLError
from gymnast_nodes.parameters import station_parameter
from gymnast_nodes.qos import COMMAND_QOS

HEARTBEAT_TOPIC = "supervisor/heartbeat"


HEARTBEAT_PERIOD_S = 0.2


FINALIZED = "finalized"


PROCESS = f"{socket.gethostname()}, process {os.getpid()}, {time.time_ns()}"
"""Tells this process from a respawned one of the same node."""


DiagnosticReport = tuple[bytes, str, dict[str, Any]]


class Diagnostics:
    """Publishes named reports of a node on /diagnostics once a second."""

    def __init__(self, node: Node, hardware_id: str) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._reports: dict[str, Callable[[], DiagnosticReport]] = {}
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = node.create_timer(1.0, self._publish)

    def add(self, name: str, report: Callable[[], DiagnosticReport]) -> None:
        """`report` returns (DiagnosticStatus level, message, values)."""
        self._reports[name] = report

    def _publish(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for name, report in self._reports.items():
            level, text, values = report()
            status = DiagnosticStatus(level=level, name=f"{self._node.get_name()}: {name}", message=text)
            status.hardware_id = self._hardware_id
            status.values = [KeyValue(key=key, value=_shown(value)) for key, value in values.items()]
            message.status.append(status)
        self._publisher.publish(message)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


class InterleavingNode(SteadyNode):
    """A node whose callbacks may run while another one awaits.

    rclpy's default group lets no callback run until the one before it has ended, awaits included, so the timer that is
    to wake a sleeping callback never would. The executor has one thread: callbacks change places only where they await.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._interleaving_group = ReentrantCallbackGroup()
        super().__init__(*args, **kwargs)

    @property
    def default_callback_group(self) -> CallbackGroup:
        return self._interleaving_group


class StationNode(InterleavingNode):
    """A node that knows its station."""

    station: StationConfig


class ManagedNode(StationNode, LifecycleNode):
    """A lifecycle node of one station: reads the station file, beats its heart, says errors in one line.

    Override `configure`, `activate`, `deactivate`, `cleanup`; raise a GymnastError to refuse a transition. `stop` is
    called once, whatever the state, when the process ends.

    The heartbeat (gymnast_msgs/NodeStatus on supervisor/heartbeat, 5 Hz) comes from a thread of its own, so that a
    long transition (loading a policy) can be told from a dead process; its detail says when the executor is stuck.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self.config_path, self.station = station_parameter(self)
        self.last_error = ""
        self._last_spin = time.monotonic()
        self._spin_timer = self.create_timer(0.5, self._note_spin)
        self._heartbeat = self.create_publisher(NodeStatus, HEARTBEAT_TOPIC, COMMAND_QOS)
        self._ended = threading.Event()
        self._beat_thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._beat_thread.start()

    # What a node does in a transition; the base class does nothing.
    def configure(self) -> None: ...

    def activate(self) -> None: ...

    def deactivate(self) -> None: ...

    def cleanup(self) -> None: ...

    def stop(self) -> None: ...

    @property
    def is_active(self) -> bool:
        return self._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self.configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("activate", self.activate, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", self.deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self.cleanup, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shut down", self.stop, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an unexpected error the node goes back to unconfigured, so that it can be configured again."""
        return TransitionCallbackReturn.SUCCESS

    def _transition(
        self,
        verb: str,
        own: Callable[[], None],
        entities: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
    ) -> TransitionCallbackReturn:
        try:
            own()
        except GymnastError as error:
            self.last_error = str(error)
            self.get_logger().error(f"cannot {verb}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.last_error = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot {verb}: unexpected {self.last_error}")
            raise
        self.last_error = ""
        return entities(state)

    def _on_change_state(self, request: Any, response: Any) -> Any:
        """A transition that the state does not have is refused; rclpy lets it end the process."""
        try:
            return self._change_state(request, response)
        except RCLError as error:
            asked = request.transition.label or request.transition.id
            self.get_logger().error(f"transition {asked} in state {self._state_machine.current_state[1]}: {error}")
            response.success = False
            return response

    def _note_spin(self) -> None:
        self._last_spin = time.monotonic()
        WALL.look()

    def _beat(self) -> None:
        message = NodeStatus(name=self.get_name(), process=PROCESS)
        while not self._ended.wait(HEARTBEAT_PERIOD_S):
            message.state = self._state_machine.current_state[1]
            stuck = time.monotonic() - self._last_spin
            message.detail = self.last_error or (f"busy for {stuck:.0f} s" if stuck > 3.0 else "")
            try:
                self._heartbeat.publish(message)
            except Exception:  # the context went down between the wait and here
                return

    def end_heartbeat(self) -> None:
        """The last beat says that the end is meant: a clean stop is no fault."""
        self._ended.set()
        self._beat_thread.join(timeout=1.0)
        self._heartbeat.publish(NodeStatus(name=self.get_name(), state=FINALIZED, detail="ended", process=PROCESS))

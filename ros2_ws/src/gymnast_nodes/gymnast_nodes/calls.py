"""Calls of services and actions, from lifecycle transitions, async callbacks and worker threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

from gymnast_core.errors import StationError


class ServiceCaller:
    """Calls services with a timeout from inside a callback, by spinning a hidden node of its own.

    Not for steady work: the caller's executor stands still meanwhile. Safe from several threads.
    """

    def __init__(self, node: Node) -> None:
        self._node = Node(
            f"_{node.get_name()}_calls",
            namespace=node.get_namespace(),
            context=node.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._node)
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def wait_for(self, services: Sequence[tuple[Any, str]], timeout_s: float) -> list[str]:
        """Wait until all (type, name) services are there; returns the names still missing after `timeout_s`."""
        end = time.monotonic() + timeout_s
        with self._lock:
            missing = [name for kind, name in services if not self._client(kind, name).service_is_ready()]
            while missing and time.monotonic() < end and self._node.context.ok():
                time.sleep(0.05)
                missing = [name for kind, name in services if not self._client(kind, name).service_is_ready()]
        return missing

    def call(self, kind: Any, name: str, request: Any, timeout_s: float, sent: int = 1) -> Any:
        """The service's response.

        sent: how often the request is sent within `timeout_s` while there is no answer. The first one, or its answer,
        is lost where one side has not discovered all of the other; what only reads may be asked twice.

        Raises: StationError when the service is not there or does not answer in time.
        """
        with self._lock:
            client = self._client(kind, name)
            if not client.wait_for_service(timeout_s):
                raise StationError(f"service {client.srv_name} is not there; is its node running?")
            answer: Any = rclpy.task.Future()

            def take(future: Any) -> None:
                if not answer.done():
                    answer.set_result(future.result())

            asked = []
            for _ in range(sent):  # a slow answer to an earlier request is as good as one to the last
                asked.append(client.call_async(request))
                asked[-1].add_done_callback(take)
                self._executor.spin_until_future_complete(answer, timeout_s / sent)
                if answer.done():
                    break
            for future in asked:
                if not future.done():
                    client.remove_pending_request(future)
            if answer.done():
                return answer.result()
            raise StationError(f"service {client.srv_name} did not answer within {timeout_s:g} s")

    def receive(self, kind: Any, topic: str, qos: QoSProfile, timeout_s: float) -> Any | None:
        """The next message on a topic, None when none comes within `timeout_s`."""
        received: Any = rclpy.task.Future()

        def take(message: Any) -> None:
            if not received.done():
                received.set_result(message)

        with self._lock:
            subscription = self._node.create_subscription(kind, topic, take, qos)
            try:
                self._executor.spin_until_future_complete(received, timeout_s)
            finally:
                self._node.destroy_subscription(subscription)
        return received.result() if received.done() else None

    def _client(self, kind: Any, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = self._node.create_client(kind, name)
        return self._clients[name]

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=0.2)
        self._node.destroy_node()


async def sleep(node: Node, seconds: float) -> None:
    """Let other callbacks run for `seconds` (inside an async callback of `node`)."""
    future: Any = rclpy.task.Future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    timer = node.create_timer(seconds, wake)
    try:
        await future
    finally:
        node.destroy_timer(timer)


POLL_S = 0.02


class Cancelled(Exception):
    """The goal at hand was asked to stop."""


def wait_for(future: Any, timeout_s: float, cancelled: Callable[[], bool] = lambda: False) -> bool:
    """Wait in a worker thread for a future the node's executor completes; False after `timeout_s`.

    Raises: Cancelled as soon as `cancelled()` says so.
    """
    event = threading.Event()
    future.add_done_callback(lambda _: event.set())
    end = time.monotonic() + timeout_s
    while not event.wait(POLL_S):
        if cancelled():
            raise Cancelled
        if time.monotonic() > end:
            return False
    return True


def in_executor(node: Node, send: Callable[[], Any]) -> Any:
    """What `send()` returns, called by the executor that spins `node`, from another thread.

    Goals and requests for their results must be sent so: rclpy notes them down only after they are sent, and drops an
    answer that its executor takes before. The goal would run, and nobody would know.

    Raises: StationError when the executor does not get round to it.
    """
    if node.executor is None:
        raise StationError(f"node {node.get_name()} has ended")
    task = node.executor.create_task(send)
    if not wait_for(task, 5.0):
        raise StationError(f"node {node.get_name()} is busy or has ended")
    return task.result()


def call_service(client: Any, request: Any, timeout_s: float, cancelled: Callable[[], bool] = lambda: False) -> Any:
    """Call a service from a worker thread while the node's executor spins elsewhere.

    Raises: StationError when the service is not there or does not answer in time; Cancelled.
    """
    end = time.monotonic() + min(timeout_s, 5.0)
    while not client.service_is_ready():
        if cancelled():
            raise Cancelled
        if time.monotonic() > end:
            raise StationError(f"service {client.srv_name} is not there; is its node running and active?")
        time.sleep(POLL_S)
    future = client.call_async(request)
    if not wait_for(future, timeout_s, cancelled):
        client.remove_pending_request(future)
        raise StationError(f"service {client.srv_name} did not answer within {timeout_s:g} s")
    return future.result()


STATUS_NAMES = {
    GoalStatus.STATUS_SUCCEEDED: "succeeded",
    GoalStatus.STATUS_ABORTED: "aborted",
    GoalStatus.STATUS_CANCELED: "canceled",
}


def run_goal(
    node: Node,
    client: ActionClient,
    name: str,
    request: Any,
    timeout_s: float,
    on_feedback: Callable[[Any], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    alive: Callable[[], bool] | None = None,
) -> tuple[str, Any]:
    """Send a goal from a worker thread of `node` and wait for its end: (status, result message).

    When `cancelled()` becomes true the goal is cancelled, its end awaited for a moment, and Cancelled raised.
    `alive` is asked now and then: when it says that the server is gone, the wait ends.

    Raises: StationError when the server is not there, refuses, dies, or takes longer than `timeout_s`; Cancelled.
    """
    if not client.wait_for_server(timeout_sec=5.0):
        raise StationError(f"action {name} is not there; is its node running and active?")
    accepted = in_executor(
        node, lambda: client.send_goal_async(request, feedback_callback=lambda message: on_feedback(message.feedback))
    )
    if not wait_for(accepted, 5.0, cancelled):
        raise StationError(f"action {name} did not answer within 5 s")
    handle = accepted.result()
    if not handle.accepted:
        raise StationError(f"action {name} refused the goal; its node's log says why")
    future = in_executor(node, handle.get_result_async)
    end = time.monotonic() + timeout_s
    try:
        while not wait_for(future, 0.25, cancelled):
            if alive is not None and not alive():
                raise StationError(f"action {name}: its node went down or was deactivated")
            if time.monotonic() > end:
                raise StationError(f"action {name} took longer than {timeout_s:g} s")
    except (Cancelled, StationError):
        handle.cancel_goal_async()
        wait_for(future, 1.5)
        raise
    answer = future.result()
    return STATUS_NAMES.get(answer.status, "aborted"), answer.result

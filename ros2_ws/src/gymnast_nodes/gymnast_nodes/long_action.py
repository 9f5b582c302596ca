"""Actions whose work runs in a thread of its own, and the waiting such a thread does.

The node's executor stays free: it takes cancel requests, feeds subscriptions and answers while the work goes on. One
goal at a time; a second one is refused until the first has ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import rclpy.task
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node

from gymnast_core.errors import GymnastError
from gymnast_nodes.calls import POLL_S, Cancelled

ResultType = TypeVar("ResultType")
Outcome = TypeVar("Outcome")
BUSY = "another goal is under way; cancel it or wait for it"


@dataclass
class Goal(Generic[ResultType]):
    """What the work of one goal sees: the request, a way to give feedback, and whether to stop."""

    request: Any
    publish_feedback: Callable[[Any], None]
    _handle: ServerGoalHandle
    _ending: threading.Event
    started: float = field(default_factory=time.monotonic)

    @property
    def cancelled(self) -> bool:
        """A cancel was requested or the node is going down."""
        return self._ending.is_set() or bool(self._handle.is_cancel_requested)

    def check(self) -> None:
        """Raises: Cancelled when the goal was asked to stop."""
        if self.cancelled:
            raise Cancelled

    def sleep_until(self, moment: float) -> None:
        """Sleep until `moment` (time.monotonic). Raises: Cancelled as soon as the goal is asked to stop."""
        while (left := moment - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, POLL_S))
        self.check()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for an event; False after `timeout_s`. Raises: Cancelled."""
        end = time.monotonic() + timeout_s
        while not event.wait(POLL_S):
            self.check()
            if time.monotonic() > end:
                return False
        return True


class Worker:
    """A thread that does one thing after the other for goals, which may leave before it is done."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def begin(self, work: Callable[[], Outcome]) -> Future[Outcome]:
        """Have `work` done behind what is under way, without waiting for it."""
        future: Future[Outcome] = Future()
        self._queue.put((future, work))
        return future

    def do(self, goal: Goal[Any], work: Callable[[], Outcome], timeout_s: float) -> Outcome:
        """What `work` returns or raises, behind what ended goals left to do.

        Raises: Cancelled, TimeoutError; work that had not begun is then left undone.
        """
        future = self.begin(work)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        try:
            if goal.wait(done, timeout_s):
                return future.result()
            raise TimeoutError
        finally:
            future.cancel()

    def end(self, timeout_s: float = 1.0) -> None:
        """Let it finish what it is at, but no longer than this: what hangs must not keep the process from ending."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)


Work = Callable[[Goal[Any]], tuple[str, Any]]
"""Does the goal's work and returns ("succeeded" | "aborted" | "canceled", result message)."""


class LongAction:
    """An action server on `node`.

    kind, name: action type and name.
    work: runs in a thread; it may raise Cancelled or a GymnastError, which `failed` turns into a result.
    refuse: given the request, says why it is refused, or returns an empty text; the reason is logged.
    failed: (message, was_cancelled, request) -> result message for a goal that ended by an exception.
    """

    def __init__(
        self,
        node: Node,
        kind: Any,
        name: str,
        work: Work,
        refuse: Callable[[Any], str],
        failed: Callable[[str, bool, Any], Any],
    ) -> None:
        self._node = node
        self._kind = kind
        self._name = name
        self._work = work
        self._refuse = refuse
        self._failed = failed
        self._busy = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._server = ActionServer(
            node,
            kind,
            name,
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    @property
    def busy(self) -> bool:
        """Whether a goal is being worked on."""
        return self._busy.locked()

    def interrupt(self, timeout_s: float = 2.0) -> None:
        """Ask the goal at hand to stop and wait for its thread; used when the node is deactivated or ends."""
        self._ending.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def allow(self) -> None:
        """Take goals (again)."""
        self._ending.clear()

    def _on_goal(self, request: Any) -> GoalResponse:
        reason = "the node is going down" if self._ending.is_set() else self._refuse(request)
        if not reason and self._busy.locked():
            reason = BUSY
        if reason:
            self._node.get_logger().error(f"{self._name}: goal refused: {reason}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> Any:
        if not self._busy.acquire(blocking=False):  # two goals accepted in the same moment
            handle.abort()
            return self._failed(BUSY, False, handle.request)
        done: Any = rclpy.task.Future()
        goal: Goal[Any] = Goal(handle.request, handle.publish_feedback, handle, self._ending)

        def run() -> None:
            try:
                done.set_result(self._run(goal))
            finally:
                executor = self._node.executor
                if executor is not None:
                    executor.wake()

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        try:
            status, result = await done
        finally:
            self._thread = None
            self._busy.release()
        if status == "canceled" and not handle.is_cancel_requested:
            status = "aborted"  # interrupted by the node itself
        getattr(handle, {"succeeded": "succeed", "aborted": "abort", "canceled": "canceled"}[status])()
        return result

    def _run(self, goal: Goal[Any]) -> tuple[str, Any]:
        try:
            return self._work(goal)
        except Cancelled:
            return "canceled", self._failed("cancelled", True, goal.request)
        except GymnastError as error:
            self._node.get_logger().error(f"{self._name}: {error}")
            return "aborted", self._failed(str(error), False, goal.request)
        except Exception as error:  # the node must answer its client whatever happened
            text = f"unexpected {type(error).__name__}: {error}"
            self._node.get_logger().error(f"{self._name}: {text}")
            return "aborted", self._failed(text, False, goal.request)

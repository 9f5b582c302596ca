"""A Python client of a running station: a script of ten lines drives the robot.

    from gymnast_nodes.client import Station

    with Station() as station:
        station.wait_until_active()
        task = station.practise("close the drawer", task="close_drawer", reset=True, execute=True)
        while not task.is_complete():
            print(task.feedback)
            time.sleep(1.0)
        print(task.result().message)

Everything long is a `Task`: started at once, asked whether it is complete, cancelled, waited for. Plain services return
their answer or raise a StationError with the node's own message. Nothing here needs more than the ROS graph.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from gymnast_msgs.action import Adapt, Practise, RunEpisode, RunTrials
from gymnast_msgs.msg import GraphStatus
from gymnast_msgs.srv import CaptureFrame, EmergencyStop, Rearm, ResetArm, ResetScene, SceneState
from rclpy.action import ActionClient
from rclpy.node import Node
from std_srvs.srv import Trigger

from gymnast_core.errors import GymnastError, StationError
from gymnast_core.evaluation.comparison import ComparisonResult
from gymnast_core.ros_logs import settle_log_folder
from gymnast_core.station_file import open_station
from gymnast_core.status import StationStatus
from gymnast_nodes.calls import STATUS_NAMES, call_service, in_executor, wait_for
from gymnast_nodes.clocks import SteadyNode
from gymnast_nodes.commander import commander_name
from gymnast_nodes.dead_ports import avoided_dead_ports
from gymnast_nodes.leaving import leave_graph
from gymnast_nodes.liveness import Liveness
from gymnast_nodes.messages import frame_to_image, image_to_frame
from gymnast_nodes.qos import LATCHED_QOS
from gymnast_nodes.running import NodeExecutor
from gymnast_nodes.status_client import listen

if TYPE_CHECKING:
    from gymnast_nodes.driving import Driving


class GoalNotTaken(StationError):
    """The node is at work for somebody else, it is not active, or its answer does not come."""


class Task:
    """One goal of an action on its way."""

    def __init__(self, node: Node, name: str, alive: Callable[[], bool]) -> None:
        self.name = name
        self.feedback: Any = None
        """The newest feedback message, None before the first."""
        self._node = node
        self._alive = alive
        self._handle: Any = None
        self._future: Any = None

    def _begin(self, client: ActionClient, request: Any, on_feedback: Callable[[Any], None] | None) -> None:
        def listen(message: Any) -> None:
            self.feedback = message.feedback
            if on_feedback is not None:
                on_feedback(message.feedback)

        if not client.wait_for_server(timeout_sec=10.0):
            raise StationError(f"action {self.name} is not there; is its node running and active?")
        accepted = in_executor(self._node, lambda: client.send_goal_async(request, feedback_callback=listen))
        if not wait_for(accepted, 10.0):
            raise GoalNotTaken(f"action {self.name} did not answer within 10 s")
        self._handle = accepted.result()
        if not self._handle.accepted:
            raise GoalNotTaken(
                f"action {self.name} refused the goal: another one is under way, or its node is not active"
            )
        self._future = in_executor(self._node, self._handle.get_result_async)

    def is_complete(self) -> bool:
        """Whether it has ended, one way or another. Raises: StationError when its node died."""
        if self._future.done():
            return True
        if not self._alive():
            raise StationError(f"action {self.name}: its node went down or was deactivated")
        return False

    def result(self, timeout_s: float = float("inf")) -> Any:
        """Wait for the end and return the result message, whose fields say how it went.

        Raises: StationError when its node died or the time is up.
        """
        end = time.monotonic() + timeout_s
        while not self.is_complete():
            wait_for(self._future, min(0.25, max(0.0, end - time.monotonic())))
            if time.monotonic() > end:
                raise StationError(f"action {self.name} took longer than {timeout_s:g} s")
        return self._future.result().result

    @property
    def status(self) -> str:
        """ "running", "succeeded", "aborted" or "canceled"."""
        return STATUS_NAMES.get(self._future.result().status, "aborted") if self._future.done() else "running"

    def cancel(self, timeout_s: float = 5.0) -> bool:
        """Ask it to stop and wait for its end; the arm holds. False when it did not end in time."""
        if not self._future.done():
            self._handle.cancel_goal_async()
        return wait_for(self._future, timeout_s)


class Station:
    """A client of the station in one ROS namespace, with a node and a spinning thread of its own.

    namespace: of gymnast's nodes. domain: ROS domain id, None for the environment's. Raises: ConfigError where
    `use_sim_time` is set for it.
    """

    def __init__(self, namespace: str = "", domain: int | None = None) -> None:
        self._context = rclpy.Context()
        if told := settle_log_folder():
            print(told, file=sys.stderr)
        rclpy.init(context=self._context, domain_id=domain)
        name = f"gymnast_client_{os.getpid()}"
        try:
            with avoided_dead_ports():
                self.node = SteadyNode(name, namespace=namespace or None, context=self._context)
        except GymnastError:
            rclpy.try_shutdown(context=self._context)
            raise
        self.commander = commander_name(self.node)
        """The name that this client's actions and resets carry."""
        self._executor = NodeExecutor(self._context)
        self._executor.add_node(self.node)
        self._graph: GraphStatus | None = None
        self.node.create_subscription(GraphStatus, "supervisor/status", self._on_graph, LATCHED_QOS)
        self._liveness: Liveness | None = None
        """Heartbeats wake thirty times a second: they are listened to from the first long task on."""
        self._services: dict[str, Any] = {}
        self._actions: dict[str, ActionClient] = {}
        self._task: Task | None = None
        self._thread = threading.Thread(target=self._spin, name="station client", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a script that forgets to close it must still end cleanly

    # The graph

    def states(self) -> dict[str, str]:
        """Lifecycle state of every managed node, as the supervisor sees it; empty before it spoke."""
        return {node.name: node.state for node in self._graph.nodes} if self._graph else {}

    def problems(self) -> dict[str, str]:
        """What is wrong with the nodes that are not active, in words."""
        nodes = self._graph.nodes if self._graph else []
        return {node.name: f"{node.state}: {node.detail}" for node in nodes if node.state != "active"}

    def status(self, seconds: float = 3.0) -> StationStatus:
        """What nodes and arm are doing and what is wrong with them, after `seconds` of listening."""
        return listen(self.node, seconds, time.sleep)

    def wait_until_active(self, timeout_s: float = 120.0, check: Callable[[], None] = lambda: None) -> None:
        """Wait until every managed node is active; `check` is called meanwhile and may raise.

        Raises: StationError naming the nodes that are not.
        """
        end = time.monotonic() + timeout_s
        while not (self._graph and self._graph.all_active):
            check()
            if time.monotonic() > end:
                listed = ", ".join(f"{name} is {text}" for name, text in self.problems().items())
                raise StationError(
                    f"not up after {timeout_s:g} s: {listed or 'no supervisor is heard; run gymnast up'}"
                )
            time.sleep(0.1)

    # Services

    def capture_frame(self, path: str | os.PathLike[str] = "", max_age_s: float = 1.0) -> np.ndarray:
        """One fresh frame (H, W, 3) uint8 RGB at camera resolution, also written to `path` (.png) if given."""
        request = CaptureFrame.Request(path=str(Path(path).absolute()) if path else "", max_age=max_age_s)
        return image_to_frame(self._call(CaptureFrame, "camera/capture_frame", request, 15.0).image)

    def reset_arm(self, offset: np.ndarray | None = None) -> None:
        """Open the gripper and go to the start pose; offset (3,) metres is added to it."""
        request = ResetArm.Request(commander=self.commander)
        if offset is not None:
            request.offset = np.asarray(offset, dtype=np.float32)
        self._call(ResetArm, "arm/reset", request, 60.0)

    def rest_arm(self) -> None:
        """Lie down in the rest pose, then let go of the motors; `reset_arm` wakes the arm."""
        self._call(Trigger, "arm/rest", Trigger.Request(), 60.0)

    def reset_scene(self, task: str, seed: int = 0) -> None:
        """Bring a simulated scene to the start of a task; the seed decides its poses."""
        self._call(ResetScene, "station/reset_scene", ResetScene.Request(task=task, seed=seed), 30.0)

    def scene_state(self, task: str) -> tuple[bool | None, float]:
        """(the task's success now or None where there is no truth, drawer opening in metres or NaN)."""
        answer = self._call(SceneState, "station/scene_state", SceneState.Request(task=task), 10.0)
        return (bool(answer.success) if answer.known else None), float(answer.drawer_opening)

    def emergency_stop(self, reason: str) -> None:
        """Latch the stop: the arm holds where it is until `rearm`."""
        self._call(EmergencyStop, "arm/emergency_stop", EmergencyStop.Request(reason=reason), 5.0)

    def rearm(self) -> None:
        """Release the latched stop; look at the arm first."""
        self._call(Rearm, "arm/rearm", Rearm.Request(confirm=True), 5.0)

    def scene_is_reset(self) -> None:
        """Tell the evaluator, which has called a person, that the scene is at its start and the arm is free."""
        self._call(Trigger, "evaluator/scene_is_reset", Trigger.Request(), 5.0)

    def drive(self, station_file: str) -> Driving:
        """Command the arm from this script, action by action: see `gymnast_nodes.driving`.

        station_file: the file that the station was started with. Raises: ConfigError.
        """
        from gymnast_nodes.driving import Driving

        config = open_station(station_file).config
        return Driving(config, self.node.get_namespace(), self._context, self._executor)

    # Long work

    def run_episode(
        self,
        instruction: str,
        policy: str = "base",
        task: str = "",
        max_steps: int = 0,
        seed: int = 0,
        judge: bool = True,
        on_feedback: Callable[[Any], None] | None = None,
    ) -> Task:
        """Run the policy ("base" or an adapter id) for one episode, without resetting anything."""
        request = RunEpisode.Goal(instruction=instruction, policy=policy, task=task, seed=seed, judge=judge)
        request.max_steps = max_steps
        return self._start(RunEpisode, "executor/run_episode", "executor", request, on_feedback)

    def adapt(
        self,
        instruction: str,
        frame: np.ndarray | None = None,
        iterations: int = 0,
        seconds: float = 0.0,
        seed: int = 0,
        on_feedback: Callable[[Any], None] | None = None,
        position: Sequence[float] = (),
        station_file: str = "",
    ) -> Task:
        """Test-time training from a frame (H, W, 3) uint8 RGB, or from one captured now.

        position: (3,) of the end effector in a frame that is given, metres, base frame; none: the start position.
        station_file: of a round of practice, see `gymnast learn`; empty: the station's own.
        """
        request = Adapt.Goal(instruction=instruction, iterations=iterations, seconds=float(seconds), seed=seed)
        request.station_file = station_file
        if frame is not None:
            request.frame = frame_to_image(frame, self.node.get_clock().now().to_msg(), "camera")
            request.position = [float(metres) for metres in position]
        return self._start(Adapt, "adapter/adapt", "adapter", request, on_feedback)

    def practise(
        self,
        instruction: str,
        task: str = "",
        reset: bool = False,
        execute: bool = True,
        iterations: int = 0,
        seconds: float = 0.0,
        seed: int = 0,
        canary_trials: int = 0,
        frames: int = 0,
        on_feedback: Callable[[Any], None] | None = None,
    ) -> Task:
        """Capture a test frame, adapt in imagination, gate, canary trials, execute, log.

        canary_trials: pairs of trials, base against adapter, after the gate; 0: as the station file says.
        frames: start frames; 0: as the station file says. With `reset`, a station that resets its own scene does so
        before each; elsewhere the arm visits poses near its start.
        """
        request = Practise.Goal(instruction=instruction, task=task, reset=reset, execute=execute, seed=seed)
        request.canary_trials, request.frames = canary_trials, frames
        request.iterations, request.seconds = iterations, float(seconds)
        return self._start(Practise, "evaluator/practise", "evaluator", request, on_feedback)

    def run_trials(
        self,
        task: str,
        trials: int,
        policy: str = "base",
        first_seed: int = 0,
        max_steps: int = 0,
        on_feedback: Callable[[Any], None] | None = None,
    ) -> Task:
        """Evaluate a policy: reset, run, judge, repeat; trial i uses seed first_seed + i."""
        request = RunTrials.Goal(task=task, trials=trials, policy=policy, first_seed=first_seed, max_steps=max_steps)
        return self._start(RunTrials, "evaluator/run_trials", "evaluator", request, on_feedback)

    def compare(self, station_file: str, policies: Sequence[str], **options: Any) -> ComparisonResult:
        """Try policies from the same resets, wait for the end, and write the page, as `gymnast trials` does.

        options: those of `TrialsOptions`. Raises: GymnastError for what cannot be tried.
        """
        from gymnast_nodes.graph_bench import compare_on

        return compare_on(self, station_file, policies, **options)

    def rest(self) -> None:
        """Listen to no heartbeats until the next long task; for a client that stays, once all its tasks have ended.

        Raises: StationError when the node's executor does not get round to it.
        """
        listening, self._liveness = self._liveness, None
        if listening is not None:
            in_executor(self.node, listening.end)

    def is_complete(self) -> bool:
        """Whether the task started last has ended."""
        return self._task is None or self._task.is_complete()

    def cancel(self) -> bool:
        """Cancel the task started last; the arm holds."""
        return self._task is None or self._task.cancel()

    # Ends and means

    def close(self) -> None:
        """Leave the graph; what runs goes on. Closing twice changes nothing.

        At the end of a `with` block that an error or Ctrl-C ended, the task started last is cancelled first.
        """
        atexit.unregister(self.close)
        if not self._context.ok():
            return
        self._executor.shutdown(timeout_sec=1.0)
        leave_graph(self.node, self._context)
        self._thread.join(2.0)

    def __enter__(self) -> Station:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._task is not None and not self._task.is_complete():
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._task.cancel()
        self.close()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except Exception:  # the context goes down under it at the end
            return

    def _on_graph(self, message: GraphStatus) -> None:
        self._graph = message

    def _call(self, kind: Any, name: str, request: Any, timeout_s: float) -> Any:
        if name not in self._services:
            self._services[name] = self.node.create_client(kind, name)
        answer = call_service(self._services[name], request, timeout_s)
        if getattr(answer, "success", True) is False and kind is not SceneState:
            raise StationError(answer.message)
        return answer

    def _start(
        self, kind: Any, name: str, server: str, request: Any, on_feedback: Callable[[Any], None] | None
    ) -> Task:
        if name not in self._actions:
            self._actions[name] = ActionClient(self.node, kind, name)
        if self._liveness is None:
            self._liveness = Liveness(self.node)
        task = Task(self.node, name, self._liveness.watch(server))
        task._begin(self._actions[name], request, on_feedback)
        self._task = task
        return task

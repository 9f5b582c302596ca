"""What all nodes share: QoS profiles, described parameters, the lifecycle base with heartbeat and diagnostics, main().

Every node spins in a single-threaded executor: at 100 Hz of joint states rclpy's multi-threaded one costs four times
the processor time. Nothing may therefore block a callback; a call of the driver inside a lifecycle transition goes
through `ServiceCaller`, which spins a hidden node of its own.

Waking up is what an idle node pays for: rclpy builds its wait set anew each time. Fast topics of which only the newest
message matters are therefore read by `LatestReader`, which wakes nobody.
"""

from __future__ import annotations

import array
import collections
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
from builtin_interfaces.msg import Time as TimeMessage
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from gymnast_msgs.msg import NodeStatus
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image, JointState

from gymnast_core.config import CameraConfig, StationConfig, load_config
from gymnast_core.errors import ConfigError, DataError, GymnastError, StationError
from gymnast_core.robot.guard import FaultWindow

try:
    from rclpy.event_handler import EventHandler
except ImportError:  # Humble
    from rclpy.qos_event import QoSEventHandler as EventHandler

RCLError = rclpy_implementation.RCLError

# Camera frames: a late frame is worth nothing, so none is sent twice.
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Commands and their outcome: every one arrives.
COMMAND_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
# The vendor's driver publishes and subscribes everything like this.
DRIVER_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
# State that a late subscriber must still see.
LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

HEARTBEAT_TOPIC = "supervisor/heartbeat"
HEARTBEAT_PERIOD_S = 0.2
FINALIZED = "finalized"
JOINT_NAMES = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
ENCODINGS = ("rgb8", "bgr8")
EVENTS_PERIOD_S = 1.0
"""How often the middleware is asked for complaints (a peer with other QoS)."""
HEADER_BYTES = 12
"""Shortest message with a header: four bytes of encapsulation and a stamp."""

NodeType = TypeVar("NodeType", bound=Node)


def parameter(
    node: Node,
    name: str,
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    read_only: bool = True,
) -> Any:
    """Declare a parameter with its descriptor (and range for numbers) and return its value.

    Raises: ConfigError when the value given is outside [low, high] or of another type.
    """
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if low is not None and high is not None:
        if isinstance(default, int) and not isinstance(default, bool):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    try:
        return node.declare_parameter(name, default, descriptor).value
    except Exception as error:  # rclpy raises half a dozen unrelated types here
        raise ConfigError(f"parameter {name} of node {node.get_name()}: {' '.join(str(error).split())}") from error


def fault_window(node: Node, stop: str) -> FaultWindow:
    """Declare the parameters `max_faults` and `fault_window_s`: how many faults are too many, and latch `stop`."""
    limit = parameter(node, "max_faults", 5, f"this many faults within fault_window_s latch {stop}", 1, 1000)
    return FaultWindow(limit, parameter(node, "fault_window_s", 60.0, "window of max_faults, seconds", 1.0, 86400.0))


def station_parameter(node: Node) -> tuple[Path, StationConfig]:
    """Declare the parameter `config` and read the station file it names.

    Raises: ConfigError when it is empty, missing or wrong.
    """
    path = parameter(node, "config", "", "absolute path of the station's YAML file (robot_configs/*.yaml)")
    if not path:
        raise ConfigError(f"node {node.get_name()}: parameter 'config' is empty; give the path of a station file")
    return Path(path), load_config(StationConfig, path)


def to_seconds(stamp: TimeMessage) -> float:
    """Seconds of a ROS stamp as a float (microsecond accuracy at today's epoch)."""
    return stamp.sec + stamp.nanosec * 1e-9


def measured_joints(message: JointState) -> np.ndarray | None:
    """The six arm joints (radians, `JOINT_NAMES` order) of the driver's joint state; None for a failed read.

    The driver publishes a failed bus read as if it were data: every motor at -pi (raw 0), and values that are not
    finite or joints that are missing are no better.
    """
    positions = dict(zip(message.name, message.position))
    if not positions.keys() >= set(JOINT_NAMES):
        return None
    joints = np.array([positions[name] for name in JOINT_NAMES])
    if not np.isfinite(joints).all() or np.all(np.abs(joints + math.pi) < 1e-3):
        return None
    return joints


def measured_effort(message: JointState) -> np.ndarray | None:
    """The six arm joints' effort (milliamperes, `JOINT_NAMES` order); None where the driver reports none."""
    efforts = dict(zip(message.name, message.effort))
    if not efforts.keys() >= set(JOINT_NAMES):
        return None
    effort = np.array([efforts[name] for name in JOINT_NAMES])
    return effort if np.isfinite(effort).all() else None


def now_seconds(node: Node) -> float:
    """The node's clock in seconds."""
    return node.get_clock().now().nanoseconds * 1e-9


def check_seconds(name: str, value: float, most: float = math.inf) -> float:
    """A request's duration, where 0 means as configured. Raises: DataError outside 0 to `most`, or not finite."""
    if not (math.isfinite(value) and 0.0 <= value <= most):
        limit = f"0 (as configured) to {most:g} s" if math.isfinite(most) else "0 (as configured) or more seconds"
        raise DataError(f"{name}: found {value:g}, allowed are {limit}")
    return value


def image_to_frame(message: Image, name: str = "image") -> np.ndarray:
    """A sensor_msgs/Image (rgb8 or bgr8) as uint8 RGB (H, W, 3); rows may be padded.

    Raises: DataError naming the encoding or size found and what is allowed.
    """
    if message.encoding not in ENCODINGS:
        raise DataError(f"{name}: encoding '{message.encoding}', allowed are {' and '.join(ENCODINGS)}")
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0 or step < 3 * width or len(message.data) != height * step:
        raise DataError(f"{name}: {width}x{height} with step {step} and {len(message.data)} bytes do not fit together")
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)
    frame = rows[:, : 3 * width].reshape(height, width, 3)
    if message.encoding == "bgr8":
        frame = frame[:, :, ::-1]
    return np.ascontiguousarray(frame)


def frame_to_image(frame: np.ndarray, stamp: TimeMessage, frame_id: str) -> Image:
    """A uint8 RGB frame (H, W, 3) as sensor_msgs/Image rgb8."""
    message = Image(height=frame.shape[0], width=frame.shape[1], encoding="rgb8", step=3 * frame.shape[1])
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.data = array.array("B", np.ascontiguousarray(frame).tobytes())  # a list or bytes is checked per element
    return message


def frame_problem(message: Image, camera: CameraConfig) -> str:
    """What is wrong with a frame's encoding or size, empty when nothing is; the pixels are not looked at."""
    if message.encoding not in ENCODINGS:
        return f"{camera.topic} has encoding '{message.encoding}', allowed are {' and '.join(ENCODINGS)}"
    if (message.width, message.height) != (camera.width, camera.height):
        return (
            f"{camera.topic} has {message.width}x{message.height} pixels, "
            f"the station file says {camera.width}x{camera.height} (camera.width, camera.height)"
        )
    return ""


class RateMeter:
    """Rate over the last two seconds and age of the last event, on the monotonic clock."""

    def __init__(self, window_s: float = 2.0) -> None:
        self._window = window_s
        self._times: collections.deque[float] = collections.deque()

    def tick(self, count: int = 1) -> None:
        """`count` events, just now."""
        now = time.monotonic()
        self._times.extend([now] * count)
        while self._times[0] < now - self._window:
            self._times.popleft()

    @property
    def rate(self) -> float:
        """Events a second."""
        now = time.monotonic()
        recent = [t for t in self._times if t >= now - self._window]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    @property
    def age(self) -> float:
        """Seconds since the last event; infinite before the first."""
        return time.monotonic() - self._times[-1] if self._times else float("inf")


class NewestFrame:
    """The newest camera frame, and what keeps it from being acted on. `now`: the node's clock, seconds."""

    def __init__(self, camera: CameraConfig, now: Callable[[], float]) -> None:
        self._camera = camera
        self._now = now
        self._arrived = -math.inf
        self._late = 0.0
        self.image: Image | None = None
        self.rate = RateMeter()

    def take(self, message: Image) -> None:
        """A frame came. The same one again is none: a camera that hangs must not look alive."""
        stamp = to_seconds(message.header.stamp)
        if self.image is not None and stamp > 0 and message.header.stamp == self.image.header.stamp:
            return
        self._late = self._now() - stamp if stamp > 0 else 0.0  # a driver that stamps nothing is taken at its word
        self._arrived = time.monotonic()
        self.image = message
        self.rate.tick()

    @property
    def problem(self) -> str:
        """One line, empty when the newest frame shows what is there now."""
        topic, age = self._camera.topic, time.monotonic() - self._arrived
        if self.image is None:
            return f"camera: no frame on {topic}; is the camera running?"
        if age > self._camera.max_age_s:
            return f"camera: no new frame on {topic} for {age:.1f} s; is the camera running?"
        if self._late > self._camera.max_age_s:
            return (
                f"camera: frames on {topic} are {self._late:.1f} s old when they come, allowed are "
                f"{self._camera.max_age_s:g} s; check the driver's clock and load"
            )
        problem = frame_problem(self.image, self._camera)
        return f"camera: {problem}" if problem else ""


class GatedGroup(CallbackGroup):
    """Callbacks that run only while `is_open`; a shut one's messages wait in their reader and wake nobody."""

    def __init__(self, is_open: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._is_open = is_open

    def can_execute(self, entity: Any) -> bool:
        return self._is_open()

    def beginning_execution(self, entity: Any) -> bool:
        return self._is_open()

    def ending_execution(self, entity: Any) -> None:
        return


def raw_callback(take: Callable[[bytes, dict[str, Any] | None], None]) -> Callable[..., None]:
    """`take` as callback of a raw subscription: Humble's rclpy gives the message alone, later ones its info, too."""
    return take if hasattr(Subscription, "CallbackType") else lambda data: take(data, None)


def take_waiting(subscription: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """The serialised messages, with their infos, that wait in the reader of a subscription."""
    taken: list[tuple[bytes, dict[str, Any]]] = []
    with subscription.handle:
        for _ in range(subscription.qos_profile.depth):  # a reader that never ends must not hold us here
            message = subscription.handle.take_message(subscription.msg_type, True)
            if message is None:
                break
            taken.append(message)
    return taken


class LatestReader:
    """The newest message of a topic, fetched when it is wanted; messages with a header only."""

    def __init__(self, node: Node, kind: Any, topic: str, qos: QoSProfile) -> None:
        self._kind = kind
        self._subscription = node.create_subscription(
            kind, topic, lambda _: None, qos, callback_group=GatedGroup(), raw=True
        )

    def take(self) -> tuple[Any | None, int]:
        """The newest message since the last call (None: there was none) and how many came."""
        messages = [data for data, _ in take_waiting(self._subscription) if len(data) >= HEADER_BYTES]
        return (deserialize_message(messages[-1], self._kind) if messages else None), len(messages)


class NodeExecutor(SingleThreadedExecutor):
    """One thread; the middleware's events (two or more for each publisher and subscription) are waited for in one
    round a second only: in every wait set they are a good part of what waking up costs."""

    def __init__(self) -> None:
        super().__init__()
        self._events_at = 0.0
        self._with_events = True

    def spin_once(self, timeout_sec: float | None = None) -> None:
        now = time.monotonic()
        self._with_events = now >= self._events_at
        if self._with_events:
            self._events_at = now + EVENTS_PERIOD_S
        super().spin_once(timeout_sec)

    def can_execute(self, entity: Any) -> bool:
        return (self._with_events or not isinstance(entity, EventHandler)) and super().can_execute(entity)


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

    def call(self, kind: Any, name: str, request: Any, timeout_s: float) -> Any:
        """The service's response. Raises: StationError when it is not there or does not answer in time."""
        with self._lock:
            client = self._client(kind, name)
            if not client.wait_for_service(timeout_s):
                raise StationError(f"service {client.srv_name} is not there; is its node running?")
            future = client.call_async(request)
            self._executor.spin_until_future_complete(future, timeout_s)
            if not future.done():
                client.remove_pending_request(future)
                raise StationError(f"service {client.srv_name} did not answer within {timeout_s:g} s")
            return future.result()

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


async def call_async(node: Node, client: Any, request: Any, timeout_s: float) -> Any:
    """Await a service inside an async callback; the executor goes on meanwhile.

    Raises: StationError when the service is not there or does not answer within `timeout_s`.
    """
    if not client.service_is_ready():
        raise StationError(f"service {client.srv_name} is not there; is its node running?")
    answer = client.call_async(request)
    done: Any = rclpy.task.Future()

    def finish(*_: Any) -> None:
        if not done.done():
            done.set_result(None)

    answer.add_done_callback(finish)
    timer = node.create_timer(timeout_s, finish)
    try:
        await done
    finally:
        node.destroy_timer(timer)
    if not answer.done():
        client.remove_pending_request(answer)
        raise StationError(f"service {client.srv_name} did not answer within {timeout_s:g} s")
    return answer.result()


class InterleavingNode(Node):
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


class ManagedNode(InterleavingNode, LifecycleNode):
    """A lifecycle node of one station: reads the station file, beats its heart, says errors in one line.

    Override `configure`, `activate`, `deactivate`, `cleanup`; raise a GymnastError to refuse a transition. `stop` is
    called once, whatever the state, when the process ends.

    The heartbeat (gymnast_msgs/NodeStatus on supervisor/heartbeat, 5 Hz) comes from a thread of its own, so that a
    long transition (loading a policy) is told apart from a dead process; its detail says when the executor is stuck.
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

    def _beat(self) -> None:
        message = NodeStatus(name=self.get_name())
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
        self._heartbeat.publish(NodeStatus(name=self.get_name(), state=FINALIZED, detail="ended"))


def run_node(build: Callable[[], NodeType], args: Sequence[str] | None = None, urgent: bool = False) -> int:
    """Main of every node: build it, spin until SIGINT or SIGTERM, let it stop, and return the exit code.

    A GymnastError while building is one line on standard error and exit code 2. A node may end itself by setting
    its attribute `exit_code` to a number. urgent: ask for a higher priority, where the user may have it: the arm's
    nodes must not wait for a training run on the same machine.
    """
    if urgent:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -10)
    rclpy.init(args=args, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    asked: list[int] = []  # no threading.Event: its lock hangs where a second signal interrupts the first's handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    executor = NodeExecutor()
    try:
        node = build()
    except GymnastError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 2
    executor.add_node(node)
    try:
        while not asked and rclpy.ok() and getattr(node, "exit_code", None) is None:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        # `ros2 launch` asks twice, and the interpreter's own end would die of the second time.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # The node's own stop must still be able to publish (the arm's hold), so the context goes down after it.
        stop = getattr(node, "stop", None)
        if stop is not None:
            stop()
        if isinstance(node, ManagedNode):
            node.end_heartbeat()
        executor.shutdown(timeout_sec=0.5)
        node.destroy_node()
        rclpy.try_shutdown()
    return int(getattr(node, "exit_code", None) or 0)

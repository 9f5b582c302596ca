"""What the nodes are built of: fast topics wake nobody, the middleware's complaints are heard, work may be left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from gymnast_msgs.action import Adapt, RunEpisode
from gymnast_msgs.msg import ArmState, NodeStatus
from rclpy.action import ActionServer
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from gymnast_core.errors import DataError
from gymnast_nodes import adapter_node
from gymnast_nodes.arm_actions import measured_position
from gymnast_nodes.calls import Cancelled, ServiceCaller
from gymnast_nodes.client import Station
from gymnast_nodes.distributions import raw_callback
from gymnast_nodes.lifecycle import HEARTBEAT_TOPIC
from gymnast_nodes.liveness import SILENT_S, Liveness
from gymnast_nodes.long_action import Goal, Worker
from gymnast_nodes.qos import DRIVER_QOS
from gymnast_nodes.reading import GatedGroup, LatestReader, RateMeter, take_waiting
from gymnast_nodes.running import NodeExecutor
from tests.domains import free_domain
from tests.machine import in_time, overdue
from tests.ros_tools import Client, wait_until

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


def test_who_waits_for_a_node_is_not_taken_in_by_its_successor() -> None:
    """The successor of a killed node may be active before anybody hears of it."""
    domain = free_domain()
    speaker, listener = Client(domain, "speaker"), Client(domain, "listener")
    try:
        liveness = Liveness(listener.node)

        def beat(process: str, state: str = "active") -> None:
            speaker.publish(NodeStatus, HEARTBEAT_TOPIC, NodeStatus(name="adapter", state=state, process=process))

        def heard(process: str) -> bool:
            beat(process)
            seen = liveness._seen.get("adapter")
            return seen is not None and seen.process == process

        wait_until(lambda: heard("first"), 10.0, "a beat")
        alive = liveness.watch("adapter")
        wait_until(lambda: heard("first"), 10.0, "a second beat")
        assert alive()
        wait_until(lambda: heard("second"), 10.0, "a beat of the successor")
        assert not alive() and liveness.watch("adapter")(), "whoever asks now may rely on the successor"
    finally:
        speaker.close()
        listener.close()


def test_who_was_held_up_himself_has_heard_no_silence() -> None:
    domain = free_domain()
    speaker, listener = Client(domain, "speaker"), Client(domain, "listener")
    publisher = speaker.node.create_publisher(NodeStatus, HEARTBEAT_TOPIC, 10)
    message = NodeStatus(name="adapter", state="active", process="first")
    beats = speaker.node.create_timer(0.1, lambda: publisher.publish(message))
    try:
        liveness = Liveness(listener.node)
        wait_until(lambda: "adapter" in liveness.states(), 10.0, "a beat")
        alive = liveness.watch("adapter")
        held_up, over = threading.Event(), threading.Event()

        def hold_up() -> None:
            if not held_up.is_set():
                held_up.set()
                time.sleep(SILENT_S + 2.0)
                over.set()

        listener.node.create_timer(0.05, hold_up)
        assert held_up.wait(10.0)
        while not over.wait(0.05):
            assert alive(), "the listener's executor stood still, not the speaker"
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            assert alive(), "what came meanwhile is still to be taken"
            time.sleep(0.01)
        beats.cancel()
        wait_until(lambda: not alive(), 10.0, "the real silence is noticed")
        again = Liveness(listener.node).watch("adapter")
        assert again(), "nothing was heard yet"
        listener.close()
        assert not again(), "who has left the graph does not wait for ever"
    finally:
        speaker.close()
        listener.close()


def test_a_goal_may_leave_its_worker_which_then_goes_on_with_the_next() -> None:
    handle = SimpleNamespace(is_cancel_requested=False)
    goal: Goal[Any] = Goal(None, lambda _: None, handle, threading.Event())  # type: ignore[arg-type]
    worker = Worker("test")
    begun, mended, undone = threading.Event(), threading.Event(), []

    def hang() -> None:
        begun.set()
        mended.wait(10.0)

    assert worker.do(goal, lambda: 7, 5.0) == 7
    with pytest.raises(ZeroDivisionError):
        worker.do(goal, lambda: 1 // 0, 5.0)
    with pytest.raises(TimeoutError):
        worker.do(goal, hang, 0.2)
    assert begun.is_set()
    threading.Timer(0.2, lambda: setattr(handle, "is_cancel_requested", True)).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        worker.do(goal, lambda: undone.append(1), 5.0)
    worker.end(0.2)
    assert in_time(1.0, began)
    mended.set()
    worker.end()
    assert not undone


def test_an_answer_that_comes_before_rclpy_has_noted_the_request_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class LateFuture(rclpy.task.Future):  # made between sending and noting down
        def __init__(self, **options: Any) -> None:
            time.sleep(0.1)
            super().__init__(**options)

    def execute(handle: Any) -> RunEpisode.Result:
        handle.succeed()
        return RunEpisode.Result(message="done")

    server = Client(domain := free_domain(), "server")
    station = Station(domain=domain)
    offered = ActionServer(server.node, RunEpisode, "executor/run_episode", execute)
    try:
        monkeypatch.setattr("rclpy.action.client.Future", LateFuture)
        assert station.run_episode("open the drawer").result(5.0).message == "done"
    finally:
        offered.destroy()
        station.close()
        server.close()


def test_a_slow_answer_counts_although_the_question_was_asked_again() -> None:
    server, asker = Client(domain := free_domain(), "server"), Client(domain, "asker")
    asked: list[int] = []

    def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        asked.append(1)
        time.sleep(1.0 if len(asked) == 1 else 0.0)
        response.message = str(len(asked))
        return response

    server.node.create_service(Trigger, "slow", answer)
    caller = ServiceCaller(asker.node)
    try:
        assert caller.call(Trigger, "/slow", Trigger.Request(), 30.0, sent=60).message == "1"
    finally:
        caller.close()
        asker.close()
        server.close()


def test_a_raw_callback_takes_what_each_rclpy_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[bytes, object]] = []
    monkeypatch.setattr(Subscription, "CallbackType", None, raising=False)
    raw_callback(lambda data, info: taken.append((data, info)))(b"later", {"source_timestamp": 1})
    monkeypatch.delattr(Subscription, "CallbackType")
    raw_callback(lambda data, info: taken.append((data, info)))(b"humble")
    assert taken == [(b"later", {"source_timestamp": 1}), (b"humble", None)]


@pytest.fixture
def reader() -> Iterator[tuple[Node, NodeExecutor, Node]]:
    """A node with its executor, spun by the test, and another node that sends to it."""
    domain = free_domain()
    sender = Client(domain, "sender")
    rclpy.init(domain_id=domain)
    node = Node("reader")
    executor = NodeExecutor()
    executor.add_node(node)
    try:
        yield node, executor, sender.node
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        sender.close()


def test_fast_topics_wake_nobody_and_lose_nothing(reader: tuple[Node, NodeExecutor, Node]) -> None:
    node, executor, sender = reader
    heard: list[float] = []
    awake = False
    latest = LatestReader(node, JointState, "joints", DRIVER_QOS)
    gated = node.create_subscription(
        JointState,
        "joints",
        lambda message: heard.append(message.position[0]),
        QoSProfile(depth=200),
        callback_group=GatedGroup(lambda: awake),
    )
    publisher = sender.create_publisher(JointState, "joints", 200)
    began = time.monotonic()
    while publisher.get_subscription_count() < 2 and not overdue(10.0, began):
        executor.spin_once(0.05)
    executor.spin_once(0.0)

    def publish(first: int) -> None:
        for value in range(first, first + 50):
            publisher.publish(JointState(name=["waist"], position=[float(value)]))
        time.sleep(0.3)

    publish(0)
    begun = time.monotonic()
    executor.spin_once(0.5)
    assert time.monotonic() - begun > 0.45, "a message woke the executor"
    message, count = latest.take()
    assert message is not None and message.position[0] == 49.0, "the newest"
    assert 1 <= count <= 10, "its queue holds 10"
    assert latest.take() == (None, 0)
    assert len(take_waiting(gated)) == 50 and not heard

    awake = True
    publish(50)
    for _ in range(60):
        executor.spin_once(0.02)
    assert heard == [float(value) for value in range(50, 100)]


def test_the_middleware_s_complaint_about_a_quality_of_service_is_heard(
    reader: tuple[Node, NodeExecutor, Node],
) -> None:
    node, executor, sender = reader
    complaints: list[object] = []
    node.create_subscription(
        JointState,
        "loose",
        lambda _: None,
        QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=complaints.append),
    )
    sender.create_publisher(JointState, "loose", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    began = time.monotonic()
    while not complaints and not overdue(10.0, began):
        executor.spin_once(0.1)
    assert complaints


def test_where_the_arm_is_comes_from_an_arm_that_knows_it() -> None:
    client = Client(free_domain())
    try:
        began = time.monotonic()
        assert measured_position(client.node) is None and in_time(5.0, began), "no arm at all"
        state = ArmState()
        publisher = client.node.create_publisher(ArmState, "arm/state", 10)
        client.node.create_timer(0.02, lambda: publisher.publish(state))
        assert measured_position(client.node) is None, "no joint state so far: its zeros are no position"
        state.pose.position.x, state.pose.position.z = 0.25, 0.125
        assert measured_position(client.node) == (0.25, 0.0, 0.125)
        state.header.stamp.sec = int(time.time()) - 2
        assert measured_position(client.node) is None, "where it was two seconds ago"
        assert not list(client.node.subscriptions), "it listens no longer than it must"
    finally:
        client.close()
    assert adapter_node._position_of(Adapt.Goal()) is None
    assert adapter_node._position_of(Adapt.Goal(position=[0.25, 0.0, 0.125])) == (0.25, 0.0, 0.125)
    for wrong in ([0.25, 0.0], [0.25, 0.0, float("nan")], [250.0, 0.0, 125.0]):
        with pytest.raises(DataError, match=r"position: found .*, needed x, y, z"):
            adapter_node._position_of(Adapt.Goal(position=wrong))


def test_a_rate_is_read_while_another_thread_counts() -> None:
    meter, ended = RateMeter(window_s=0.05), threading.Event()

    def count_on() -> None:
        while not ended.is_set():
            meter.tick()

    thread = threading.Thread(target=count_on)
    thread.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert meter.rate >= 0.0 and meter.age >= 0.0
    finally:
        ended.set()
        thread.join()

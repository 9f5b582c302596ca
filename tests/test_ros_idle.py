"""What the nodes are built of: fast topics wake nobody, the middleware's complaints are heard, work may be left."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from gymnast_msgs.action import Adapt, RunEpisode
from gymnast_msgs.msg import ArmState
from rclpy.action import ActionServer
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from ros_tools import Client, free_domain, wait_until
from sensor_msgs.msg import Image, JointState

from gymnast_core.config import CameraConfig
from gymnast_core.errors import DataError
from gymnast_nodes import adapter_node
from gymnast_nodes.camera_node import Device
from gymnast_nodes.client import Station
from gymnast_nodes.common import DRIVER_QOS, GatedGroup, LatestReader, NodeExecutor, raw_callback, take_waiting
from gymnast_nodes.long_action import Cancelled, Goal, Worker, measured_position

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


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
    assert time.monotonic() - began < 1.0
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


def test_a_video_device_that_was_unplugged_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Webcam:
        """Gives two frames, of a colour of its own, and is gone."""

        def __init__(self, *_: object) -> None:
            opened.append(self)
            self.colour, self.left = len(opened), 2

        def isOpened(self) -> bool:
            return True

        def set(self, *_: object) -> None: ...

        def release(self) -> None: ...

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            time.sleep(0.05)
            return (True, np.full((24, 32, 3), self.colour, np.uint8)) if self.left >= 0 else (False, None)

    monkeypatch.setattr("cv2.VideoCapture", Webcam)
    client = Client(free_domain(), "eye")
    frames = client.listen(Image, "/camera/image_raw", 50)
    (tmp_path / "video").touch()
    device = Device(client.node, CameraConfig("device", device=str(tmp_path / "video"), width=32, height=24))
    try:
        device.start()
        wait_until(lambda: {message.data[0] for _, message in frames} >= {2, 3}, 10.0, "frames of later openings")
    finally:
        device.close()
        client.close()


def test_a_raw_callback_takes_what_each_rclpy_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[bytes, object]] = []
    monkeypatch.setattr(Subscription, "CallbackType", None, raising=False)
    raw_callback(lambda data, info: taken.append((data, info)))(b"later", {"source_timestamp": 1})
    monkeypatch.delattr(Subscription, "CallbackType")
    raw_callback(lambda data, info: taken.append((data, info)))(b"humble")
    assert taken == [(b"later", {"source_timestamp": 1}), (b"humble", None)]


def test_fast_topics_wake_nobody_and_lose_nothing() -> None:
    domain = free_domain()
    sender = Client(domain, "sender")
    rclpy.init(domain_id=domain)
    node = Node("reader")
    executor = NodeExecutor()
    executor.add_node(node)
    try:
        heard: list[float] = []
        complaints: list[object] = []
        awake = False
        latest = LatestReader(node, JointState, "joints", DRIVER_QOS)
        gated = node.create_subscription(
            JointState,
            "joints",
            lambda message: heard.append(message.position[0]),
            QoSProfile(depth=200),
            callback_group=GatedGroup(lambda: awake),
        )
        publisher = sender.node.create_publisher(JointState, "joints", 200)
        deadline = time.monotonic() + 10.0
        while publisher.get_subscription_count() < 2 and time.monotonic() < deadline:
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
        assert (
            message is not None and message.position[0] == 49.0 and 1 <= count <= 10
        )  # the newest; its queue holds 10
        assert latest.take() == (None, 0)
        assert len(take_waiting(gated)) == 50 and not heard

        awake = True
        publish(50)
        for _ in range(60):
            executor.spin_once(0.02)
        assert heard == [float(value) for value in range(50, 100)]

        # A subscriber whose QoS fits nobody: the middleware's complaint arrives within two seconds.
        node.create_subscription(
            JointState,
            "loose",
            lambda _: None,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=complaints.append),
        )
        loose = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        sender.node.create_publisher(JointState, "loose", loose)
        deadline = time.monotonic() + 10.0
        while not complaints and time.monotonic() < deadline:
            executor.spin_once(0.1)
        assert complaints
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        sender.close()


def test_where_the_arm_is_comes_from_an_arm_that_knows_it() -> None:
    client = Client(free_domain())
    try:
        began = time.monotonic()
        assert measured_position(client.node) is None and time.monotonic() - began < 5.0, "no arm at all"
        state = ArmState()
        publisher = client.node.create_publisher(ArmState, "arm/state", 10)
        client.node.create_timer(0.02, lambda: publisher.publish(state))
        assert measured_position(client.node) is None, "no joint state so far: its zeros are no position"
        state.pose.position.x, state.pose.position.z = 0.25, 0.125
        assert measured_position(client.node) == (0.25, 0.0, 0.125)
        assert not list(client.node.subscriptions), "it listens no longer than it must"
    finally:
        client.close()
    assert adapter_node._position_of(Adapt.Goal()) is None
    assert adapter_node._position_of(Adapt.Goal(position=[0.25, 0.0, 0.125])) == (0.25, 0.0, 0.125)
    for wrong in ([0.25, 0.0], [0.25, 0.0, float("nan")], [250.0, 0.0, 125.0]):
        with pytest.raises(DataError, match=r"position: found .*, needed x, y, z"):
            adapter_node._position_of(Adapt.Goal(position=wrong))

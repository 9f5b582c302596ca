"""What lets an idle graph cost little: fast topics wake nobody, and the middleware is still heard when it complains."""

from __future__ import annotations

import time

import pytest
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from ros_tools import Client, free_domain
from sensor_msgs.msg import JointState

from gymnast_nodes.common import DRIVER_QOS, GatedGroup, LatestReader, NodeExecutor, raw_callback, take_waiting

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


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

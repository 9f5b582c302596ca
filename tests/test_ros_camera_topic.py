"""A camera driver of somebody else, with the middleware's defaults, is received; where it cannot be, it is said why."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from gymnast_nodes.camera_topic import PROFILE, CameraSubscription, advice
from tests.domains import free_domain, isolate
from tests.ros_tools import Client, Process, wait_until

TOPIC = "/camera/image_raw"
DRIVER = """
import array, sys, time, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("some_camera")
qos = QoSProfile(depth=10, reliability=ReliabilityPolicy[sys.argv[1]])
publisher = node.create_publisher(Image, "/camera/image_raw", qos)
data, count = array.array("B", bytes(640 * 480 * 3)), 0
while True:
    count += 1
    message = Image(height=480, width=640, encoding="rgb8", step=1920, data=data)
    message.header.frame_id = str(count)
    publisher.publish(message)
    time.sleep(0.1)
"""
BUSY = "while True: pass"


@contextmanager
def camera(domain: int, reliability: str) -> Iterator[None]:
    """A driver that knows nothing of this project, and its profile neither."""
    environment = {k: v for k, v in isolate(domain).items() if "DEFAULT_PROFILES_FILE" not in k}
    process = Process([sys.executable, "-c", DRIVER, reliability], environment)
    try:
        yield
    finally:
        process.end()  # by Ctrl-C: it takes its leave, and is not counted for 20 s after its death


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(free_domain(), "eye")
    yield client
    client.close()


def test_every_frame_of_a_reliable_driver_with_default_settings_arrives_on_a_busy_machine(client: Client) -> None:
    domain = client.context.get_domain_id()
    busy = [Process([sys.executable, "-c", BUSY], isolate(domain)) for _ in range(4)]
    try:
        with camera(domain, "RELIABLE"):
            wait_until(lambda: client.node.count_publishers(TOPIC), 30.0, "the camera")
            numbers: list[int] = []
            CameraSubscription(client.node, TOPIC, lambda message: numbers.append(int(message.header.frame_id)))
            wait_until(lambda: numbers, 30.0, "a frame")
            time.sleep(8.0)
    finally:
        for process in busy:
            process.process.kill()
            process.end()
    sent = numbers[-1] - numbers[0] + 1
    print(f"{len(numbers)} of {sent}")
    assert sent > 10 and len(numbers) >= 0.9 * sent, f"{len(numbers)} of {sent} frames"


def test_a_subscription_follows_its_driver_and_says_what_a_best_effort_one_should_set(client: Client) -> None:
    domain = client.context.get_domain_id()
    frames: list[Image] = []
    subscription = CameraSubscription(client.node, TOPIC, frames.append)
    for reliability in ("BEST_EFFORT", "RELIABLE", "BEST_EFFORT"):
        wait_until(lambda: client.node.count_publishers(TOPIC) == 0, 30.0, "the end of the last driver")
        with camera(domain, reliability):
            wait_until(lambda: client.node.count_publishers(TOPIC), 30.0, "the camera")
            subscription.match()
            assert subscription.subscription.qos_profile.reliability == ReliabilityPolicy[reliability]
            told = advice(client.node, TOPIC)
            assert (str(PROFILE) in told) == (reliability == "BEST_EFFORT")
            frames.clear()
            wait_until(lambda: frames, 30.0, "a frame")

"""The recipes of docs/how-to/camera.md, and `gymnast camera check` over ROS: drivers' topics, and a running station."""

from __future__ import annotations

import array
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from gymnast_core.config import CameraConfig, parse_config
from gymnast_core.data.frames import write_image
from gymnast_core.data.pictures import read_image
from gymnast_core.plain_yaml import parse_yaml
from gymnast_core.robot.video import Kind, kind_of
from tests.domains import free_domain, isolate
from tests.machine import HANG_S
from tests.ros_tools import ROOT, SIMULATED, Client, running_graph, wait_active

PAGE = ROOT / "docs" / "how-to" / "camera.md"
HEIGHT, WIDTH = 480, 640


def recipes() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [section["camera"] for section in map(parse_yaml, blocks) if isinstance(section, dict)]


def scene() -> np.ndarray:
    """(480, 640, 3), grey, so that shared colours of YUV lose nothing of it."""
    cells = np.random.default_rng(3).integers(40, 210, (12, 16)).astype(np.uint8)
    return np.repeat(cv2.resize(cells, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)[:, :, None], 3, 2)


def driver_message(encoding: str) -> Image | CompressedImage:
    """As the driver of a recipe publishes the scene."""
    grey = scene()[:, :, 0]
    if encoding == "jpeg":
        packed = cv2.imencode(".jpg", grey)[1].tobytes()
        return CompressedImage(format="rgb8; jpeg compressed bgr8", data=array.array("B", packed))
    if encoding == "yuv422_yuy2":
        luma = (grey.astype(float) * 219 / 255 + 16).round().astype(np.uint8)
        numbers = np.dstack((luma, np.full_like(luma, 128)))
    else:
        numbers = scene()
    data = array.array("B", numbers.tobytes())
    return Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=len(data) // HEIGHT, data=data)


@contextmanager
def driver(client: Client, topic: str, encoding: str, reliable: bool) -> Iterator[None]:
    """Publishes ten pictures a second."""
    message = driver_message(encoding)
    qos = QoSProfile(depth=5)
    qos.reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    publisher, ending = client.node.create_publisher(type(message), topic, qos), threading.Event()

    def run() -> None:
        while not ending.wait(0.1):
            message.header.stamp = client.node.get_clock().now().to_msg()
            publisher.publish(message)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def check(domain: int, folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and standard error of `gymnast camera check` in a process of its own."""
    command = [sys.executable, "-m", "gymnast_core.cli", "camera", "check", str(folder / "station.yaml"), "--json"]
    words = (*words, "--out", str(folder / "both.png"))
    done = subprocess.run(
        [*command, *words], env=isolate(domain), capture_output=True, text=True, cwd=ROOT, timeout=HANG_S
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def test_every_recipe_of_the_page_is_a_section_that_a_station_file_takes() -> None:
    cameras = [parse_config(CameraConfig, section, str(section)) for section in recipes()]
    assert len(cameras) == 8
    devices = [kind_of(camera.device) for camera in cameras if camera.source == "device"]
    assert devices == [Kind.V4L2, Kind.STREAM, Kind.GSTREAMER, Kind.FILM]


@pytest.mark.parametrize(
    "number, encoding, reliable",
    [(0, "rgb8", True), (1, "yuv422_yuy2", True), (2, "rgb8", False), (3, "jpeg", True)],
    ids=["realsense", "usb_cam", "v4l2_camera", "compressed"],
)
def test_a_drivers_topic_is_read_as_its_recipe_says(tmp_path: Path, number: int, encoding: str, reliable: bool) -> None:
    camera = recipes()[number]
    write_image(tmp_path / "reference.png", scene())
    evaluation = {"reference_view": "reference.png"}
    content = {"name": "bench", "tasks": {"open": {"instruction": "open"}}, "camera": camera, "evaluation": evaluation}
    (tmp_path / "station.yaml").write_text(yaml.safe_dump(content))
    client = Client(free_domain(), "some_driver")
    try:
        with driver(client, camera["topic"], encoding, reliable):
            code, found, told = check(client.context.get_domain_id(), tmp_path, "--seconds", "20")
    finally:
        client.close()
    assert code == 0 and found["same"] and found["source"].startswith(camera["topic"]), told or found
    assert found["shift"] < 0.5 and abs(found["brightness"]) < 2.0 and found["difference"] < 4.0


def test_a_topic_of_another_type_is_named_with_the_setting_that_reads_it(tmp_path: Path) -> None:
    write_image(tmp_path / "reference.png", scene())
    camera = {**recipes()[3], "message": "Image"}
    content = {"name": "bench", "tasks": {"open": {"instruction": "open"}}, "camera": camera}
    content["evaluation"] = {"reference_view": "reference.png"}
    (tmp_path / "station.yaml").write_text(yaml.safe_dump(content))
    client = Client(free_domain(), "some_driver")
    try:
        with driver(client, camera["topic"], "jpeg", True):
            code, _, told = check(client.context.get_domain_id(), tmp_path, "--seconds", "20")
    finally:
        client.close()
    assert code == 2 and "has sensor_msgs/msg/CompressedImage, the station file says sensor_msgs/msg/Image" in told
    assert told.strip().endswith("set camera.message: CompressedImage")


def test_a_running_station_is_asked_and_one_that_nobody_runs_is_named(tmp_path: Path) -> None:
    content = yaml.safe_load(SIMULATED.read_text())
    content["evaluation"] = {"reference_view": "reference.png"}
    (tmp_path / "station.yaml").write_text(yaml.safe_dump(content))
    others = ("recorder", "adapter", "executor", "evaluator")
    with running_graph(tmp_path / "station.yaml", without=others) as (graph, client):
        wait_active(client, graph)
        domain = client.context.get_domain_id()
        reference = str(tmp_path / "reference.png")
        assert check(domain, tmp_path, "--seconds", "20", "--take", reference)[0] == 0
        code, found, told = check(domain, tmp_path, "--seconds", "20")
        assert code == 0 and found["source"].startswith("the camera node, 640x480"), told or found
        write_image(Path(reference), np.roll(read_image(reference), (6, -20), (0, 1)))
        code, found, told = check(domain, tmp_path, "--seconds", "20")
        assert code == 1 and found["problems"][0].startswith("shifted by 3."), told or found
        assert (found["across"], found["down"]) == pytest.approx((20, -6), abs=1.0)
    code, found, told = check(free_domain(), tmp_path, "--seconds", "1")
    assert code == 2 and not found
    assert "no camera node answers camera/capture_frame, and nobody publishes /camera/image_raw" in told

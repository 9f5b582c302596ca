"""A camera that the camera node opens itself, and a compressed topic: published, stamped, counted and recorded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gymnast_msgs.srv import CaptureFrame, StartRecording, StopRecording
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gymnast_core.config import CameraConfig
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.ros_images import image_to_frame
from gymnast_core.errors import ConfigError
from gymnast_core.robot.calibration import read_calibration
from gymnast_nodes.camera_device import CameraDevice
from gymnast_nodes.client import Station
from gymnast_nodes.frame_counts import FrameCounts
from gymnast_nodes.frame_time import Moment
from gymnast_nodes.messages import to_seconds
from tests.domains import free_domain
from tests.machine import allowed
from tests.ros_tools import SIMULATED, Client, running_graph, wait_active, wait_until
from tests.test_video import HEIGHT, WIDTH, film, stream

TOPIC = "/camera/image_raw"
CALIBRATION: dict[str, Any] = {
    "image_width": WIDTH,
    "image_height": HEIGHT,
    "camera_name": "bench",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]},
    "distortion_model": "plumb_bob",
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.1, -0.2, 0, 0, 0]},
    "projection_matrix": {"rows": 3, "cols": 4, "data": [50.0, 0, 32, 7, 0, 50, 24, 0, 0, 0, 1, 0]},
}
"""As ROS's camera_calibration writes it."""


def test_a_camera_that_is_lost_is_opened_again_and_its_frames_bear_their_time(tmp_path: Path) -> None:
    client = Client(free_domain(), "eye")
    frames, infos = client.listen(Image, TOPIC, 50), client.listen(CameraInfo, "/camera/camera_info", 50)
    device = None
    try:
        with stream() as first:
            port, began = first.port, time.monotonic()
            url = f"http://127.0.0.1:{port}/"
            (tmp_path / "ost.yaml").write_text(yaml.safe_dump(CALIBRATION))
            config = CameraConfig("device", device=url, width=WIDTH, height=HEIGHT, calibration="ost.yaml")
            device = CameraDevice(client.node, config, tmp_path)
            device.start()
            wait_until(lambda: len(frames) > 3, 20.0, "frames")
            ages = [time.time() - (time.monotonic() - at) - to_seconds(image.header.stamp) for at, image in frames]
            assert all(-0.1 < age < allowed(1.0, began) for age in ages), ages
            assert image_to_frame(frames[0][1]).shape == (HEIGHT, WIDTH, 3)
            wait_until(lambda: infos, 20.0, "the calibration")
            info = infos[0][1]
            assert list(info.k) == CALIBRATION["camera_matrix"]["data"] and info.distortion_model == "plumb_bob"
            assert list(info.d) == [0.1, -0.2, 0.0, 0.0, 0.0] and info.p[3] == 7.0 and list(info.r)[::4] == [1, 1, 1]
            wait_until(lambda: info.header.stamp in [image.header.stamp for _, image in frames], 20.0, "its frame")
        time.sleep(1.0)
        seen = len(frames)
        with stream(port):
            wait_until(lambda: len(frames) > seen + 3, 30.0, "frames of the camera that is back")
        assert device.reopened >= 1 and device.values["stamps"] == "of arrival" and not device.complaint
    finally:
        if device is not None:
            device.close()
        client.close()


def test_a_calibration_that_does_not_fit_is_refused_by_file_and_field(tmp_path: Path) -> None:
    path, camera = tmp_path / "ost.yaml", CameraConfig("device", width=WIDTH, height=HEIGHT)
    for change, told in (
        ({"image_width": 640}, f"found a calibration of 640x{HEIGHT} pixels, the station file says {WIDTH}x{HEIGHT}"),
        ({"camera_matrix": {"rows": 3, "cols": 3, "data": [1.0]}}, "camera_matrix.data: found 1 numbers, needed 3 x 3"),
        ({"projection_matrix": CALIBRATION["camera_matrix"]}, "projection_matrix: found 3 x 3, needed 3 x 4"),
        ({"camera_matrix": None}, "camera_matrix"),
    ):
        path.write_text(yaml.safe_dump({**CALIBRATION, **change}))
        with pytest.raises(ConfigError, match=rf"ost.yaml: .*{told}"):
            read_calibration(path, camera)
    with pytest.raises(ConfigError, match=r"camera.calibration: found ost.yaml with source: topic"):
        CameraConfig(calibration="ost.yaml")


def test_missing_frames_and_latency_are_counted_by_the_stamps() -> None:
    counts = FrameCounts()
    for number in range(60):
        if number not in (30, 40, 41):
            counts.take(Moment(number * 0.1, number * 0.1 + 0.02, 0.03 if number == 50 else 0.02, True))
    counts.take(Moment(0.0, 9.0, 0.0, False))
    counts.take(Moment(3.0, 9.0, 0.0, True, in_order=False))
    assert counts.values == pytest.approx({"frames": 59, "missing": 3, "latency_s": 0.02, "latency_max_s": 0.03})
    counts.pause()
    counts.take(Moment(100.0, 100.0, 0.0, True))
    assert counts.missing == 3


def station_file(tmp_path: Path, camera: dict[str, object]) -> Path:
    content = yaml.safe_load(SIMULATED.read_text())
    content["camera"] = {**content.get("camera", {}), **camera}
    content["recorder"] = {"folder": str(tmp_path / "episodes"), "min_free_mb": 1}
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_compressed_topic_is_captured_and_recorded_with_its_camera_info(tmp_path: Path) -> None:
    topic = "/camera/image_raw/compressed"
    config = station_file(tmp_path, {"topic": topic, "message": "CompressedImage"})
    with running_graph(config, without=("adapter", "executor", "evaluator")) as (graph, client):
        wait_active(client, graph)
        info = client.node.create_publisher(CameraInfo, "/camera/camera_info", 10)
        answer = client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request(max_age=5.0))
        assert answer.success and answer.image.encoding == "rgb8", answer.message
        pictures = client.listen(CompressedImage, topic)
        wait_until(lambda: info.get_subscription_count(), 20.0, "a recorder that listens to the camera's info")
        request = StartRecording.Request(episode_id="packed", instruction="open the drawer")
        started = client.call(StartRecording, "/recorder/start", request)
        assert started.success, started.message
        first = len(pictures)
        for number in range(5):
            message = CameraInfo(width=640, height=480)
            message.header.stamp.sec = number
            info.publish(message)
        wait_until(lambda: len(pictures) > first + 10, 20.0, "pictures")
        station = Station(domain=client.context.get_domain_id())
        try:
            with station.drive(str(config)) as arm:  # what watches over an episode reads the same topic
                seen, _ = arm.observe()
        finally:
            station.close()
        stopped = client.call(StopRecording, "/recorder/stop", StopRecording.Request(episode_id="packed"), 30.0)
    shown = np.frombuffer(answer.image.data, np.uint8).reshape(480, 640, 3)
    assert shown.std() > 5.0
    assert np.abs(seen.astype(int) - resize_frame(shown, len(seen))).mean() < 4.0
    with AnyReader([Path(started.path) / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        kinds = {name: (one.msgtype, one.msgcount) for name, one in reader.topics.items()}
        connections = [one for one in reader.connections if one.topic == topic]
        _, _, raw = next(reader.messages(connections))
        logged = image_to_frame(reader.deserialize(raw, "sensor_msgs/msg/CompressedImage"))
    assert kinds[topic][0] == "sensor_msgs/msg/CompressedImage" and kinds[topic][1] >= 10, stopped.message
    assert kinds["/camera/camera_info"] == ("sensor_msgs/msg/CameraInfo", 5)
    # The arm stands still and PNG loses nothing: what is logged is what was captured.
    assert logged.shape == shown.shape and np.abs(logged.astype(int) - shown).mean() < 2.0


def test_a_film_is_a_station_s_camera_and_the_diagnostics_say_that_it_is_none(tmp_path: Path) -> None:
    camera = {
        "source": "device",
        "device": film(tmp_path / "a.avi"),
        "width": WIDTH,
        "height": HEIGHT,
        "topic": "/film",
    }
    content = {"name": "bench", "tasks": {"open": {"instruction": "open"}}, "camera": camera}
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump(content))
    others = ("watchdog", "arm", "recorder", "adapter", "executor", "evaluator")
    with running_graph(path, without=others) as (graph, client):
        diagnostics = client.listen(DiagnosticArray, "/diagnostics", 50)
        wait_active(client, graph)
        answer = client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request(max_age=5.0))
        assert answer.success and (answer.image.width, answer.image.height) == (WIDTH, HEIGHT), answer.message

        def told() -> bool:
            said = [one for _, array in diagnostics for one in array.status if one.name == "camera: camera"]
            return any(one.level == DiagnosticStatus.WARN and "a.avi is a film" in one.message for one in said)

        wait_until(told, 20.0, "a warning on /diagnostics")

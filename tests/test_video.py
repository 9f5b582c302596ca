"""A camera that gymnast opens itself: real films, and a real stream over HTTP that dies and comes back."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gymnast_core.config import CameraConfig, parse_config
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.robot.video import Kind, Shot, Video, kind_of
from tests.machine import allowed, overdue
from tests.rtsp_camera import RtspCamera

WIDTH, HEIGHT = 64, 48
LEVELS = (40, 120, 200)
PATIENCE_S = 4.0
"""A busy machine may keep a picture waiting this long; FFmpeg gives up after 5 s."""


def flat(level: int) -> np.ndarray:
    """A picture (H, W, 3) RGB with little green and no blue."""
    return np.full((HEIGHT, WIDTH, 3), (level, level // 4, 0), np.uint8)


def film(path: Path, levels: tuple[int, ...] = LEVELS) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (WIDTH, HEIGHT))
    for level in levels:
        writer.write(flat(level)[:, :, ::-1])
    writer.release()
    return path.name


class Stream:
    """A camera with a page of its own: motion JPEG over HTTP, the level of each picture counted up."""

    def __init__(self, port: int = 0) -> None:
        self.ending = threading.Event()

        class Answer(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                handler.send_response(200)
                handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
                handler.end_headers()
                level = 0
                while not self.ending.is_set():
                    level = (level + 20) % 240
                    _, jpeg = cv2.imencode(".jpg", flat(level)[:, :, ::-1])
                    head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    try:
                        handler.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")
                    except OSError:
                        return
                    time.sleep(0.02)

            def log_message(handler, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.ending.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def stream(port: int = 0) -> Iterator[Stream]:
    found = Stream(port)
    try:
        yield found
    finally:
        found.end()


def level(shot: Shot | None) -> int:
    assert shot is not None and shot.frame.shape == (HEIGHT, WIDTH, 3) and shot.frame.dtype == np.uint8
    red, green, blue = shot.frame.reshape(-1, 3).mean(axis=0)
    assert abs(green - red / 4) < 8 and blue < 12, "RGB"
    return round(float(red))


def test_what_a_device_is_shows_in_its_name() -> None:
    named = {"/dev/video2": Kind.V4L2, "rtsp://a:b@cam/1": Kind.STREAM, "http://cam/mjpeg": Kind.STREAM}
    named |= {"v4l2src ! videoconvert ! appsink": Kind.GSTREAMER, "films/a.mp4": Kind.FILM, "/data/a.avi": Kind.FILM}
    assert {name: kind_of(name) for name in named} == named


def test_a_film_is_played_again_and_again_at_the_stations_rate_and_is_not_taken_for_live(tmp_path: Path) -> None:
    camera = CameraConfig("device", device=film(tmp_path / "a.avi"), width=WIDTH, height=HEIGHT, rate_hz=30.0)
    video = Video(camera, tmp_path)
    video.open()
    began = time.monotonic()
    shots = [video.read() for _ in range(8)]
    assert [round(level(shot), -1) for shot in shots] == [LEVELS[k % 3] for k in range(8)]
    assert time.monotonic() - began >= 7 / 30.0 and not video.live
    assert all(b.taken > a.taken and not b.by_device for a, b in itertools.pairwise(shots) if a and b)
    video.close()
    assert video.read() is None


def test_a_stream_that_dies_is_lost_and_is_read_again_when_it_is_back(tmp_path: Path) -> None:
    with stream() as first:
        port = first.port
        url = f"http://u:secretword@127.0.0.1:{port}/"
        camera = CameraConfig("device", device=url, width=WIDTH, height=HEIGHT, max_age_s=PATIENCE_S)
        video = Video(camera, tmp_path)
        video.open()
        seen = [video.read() for _ in range(4)]
        assert len({level(shot) for shot in seen}) > 1, "the pictures change"
        taken = [shot.taken for shot in seen if shot]
        assert min(b - a for a, b in itertools.pairwise(taken)) >= 0.74 / camera.rate_hz
        assert video.left_out, "it sends more than the station wants"
    began, lost = time.monotonic(), False
    while not lost and not overdue(20.0, began):
        lost = video.read() is None
    assert lost
    with pytest.raises(StationError, match=r"cannot open .*; is the camera on, and are address") as refused:
        video.open()
    assert "secretword" not in str(refused.value) and str(port) in str(refused.value)
    assert video.read() is None
    with stream(port):
        video.open()
        level(video.read())
        video.close()


def test_a_network_camera_that_hangs_hands_out_no_old_picture(tmp_path: Path) -> None:
    camera = RtspCamera(WIDTH, HEIGHT)
    url = f"rtsp://127.0.0.1:{camera.port}/1"
    video = Video(CameraConfig("device", device=url, width=WIDTH, height=HEIGHT, max_age_s=PATIENCE_S), tmp_path)
    try:
        video.open()
        assert len({level(video.read()) for _ in range(6)}) > 2, "the pictures change"
        camera.ending.set()  # no more pictures; the connection stays
        sent, last = time.monotonic(), 0.0
        while (shot := video.read()) is not None:
            last = shot.taken
        assert last < sent + allowed(PATIENCE_S - 1.0, sent), "what the decoder held back is not new"
    finally:
        camera.end()
        video.close()


def test_what_cannot_be_opened_or_fixed_is_one_clear_line(tmp_path: Path) -> None:
    def opened(**settings: Any) -> Video:
        video = Video(CameraConfig("device", width=WIDTH, height=HEIGHT, **settings), tmp_path)
        video.open()
        return video

    (tmp_path / "words.avi").write_text("no film")
    wanted = {
        "/dev/no_such_video": "/dev/no_such_video does not exist; plug the camera in",
        "no.avi": "no.avi does not exist; correct camera.device",
        "words.avi": "cannot open .*words.avi; is it a film",
    }
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        wanted["videotestsrc ! videoconvert ! appsink"] = "was built without GStreamer, which camera.device needs"
    for device, told in wanted.items():
        with pytest.raises(StationError, match=told):
            opened(device=device)
    untaken = opened(device=film(tmp_path / "a.avi"), exposure=150, white_balance=4600).untaken
    assert [one.split(":")[0] for one in untaken] == ["camera.exposure", "camera.white_balance"]
    with stream() as camera:
        (told,) = opened(device=f"http://127.0.0.1:{camera.port}/", gain=0).untaken
    assert told.startswith("camera.gain: cannot be set through a stream")
    for settings, told in (
        ({"exposure": 150}, "camera.exposure: found 150 with source: topic, whose driver alone sets it"),
        ({"source": "device", "message": "CompressedImage"}, "camera.message: found CompressedImage with source: dev"),
        ({"source": "device", "device": " "}, "camera.device: found none"),
        ({"white_balance": 46}, "white_balance"),
    ):
        with pytest.raises(ConfigError, match=told):
            parse_config(CameraConfig, settings, "station")

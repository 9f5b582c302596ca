"""A camera that this process opens itself: a video device, a network stream, a film or a GStreamer pipeline.

OpenCV reads all of them. A picture's time is the kernel's where the device tells it (V4L2), else that of its arrival.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.config import CameraConfig
from gymnast_core.errors import StationError
from gymnast_core.files import user_path
from gymnast_core.redaction import redact

TIMEOUT_MS = 5000
"""A network stream that does not open, or gives no picture, for this long counts as lost."""
EARLY = 0.75
"""A picture that comes sooner than this share of a period after the last one is left out."""
UNTAKEN = 0.02
"""A device that says a value this much off the wanted one, as a share, did not take it."""


class Kind(Enum):
    """What `camera.device` names, and OpenCV's backend for it."""

    V4L2 = cv2.CAP_V4L2
    STREAM = cv2.CAP_FFMPEG
    FILM = -1
    GSTREAMER = cv2.CAP_GSTREAMER


MANUAL = {
    "exposure": (cv2.CAP_PROP_EXPOSURE, cv2.CAP_PROP_AUTO_EXPOSURE, 1.0),
    "white_balance": (cv2.CAP_PROP_WB_TEMPERATURE, cv2.CAP_PROP_AUTO_WB, 0.0),
    "gain": (cv2.CAP_PROP_GAIN, None, 0.0),
}
"""By setting: its property, the property of its automatic, and that one's value for off (V4L2's menu)."""


@dataclass(frozen=True)
class Shot:
    """A picture (H, W, 3) uint8 RGB. taken: seconds of the steady clock. by_device: the device told this time."""

    frame: np.ndarray
    taken: float
    by_device: bool


def kind_of(device: str) -> Kind:
    """What a `camera.device` names: a pipeline has " ! " in it, a stream a scheme, a video device lies in /dev."""
    if " ! " in device:
        return Kind.GSTREAMER
    if re.match(r"[a-z][a-z0-9+.-]*://", device, re.IGNORECASE):
        return Kind.STREAM
    return Kind.V4L2 if device.startswith("/dev/") else Kind.FILM


class Video:
    """The camera that a station file's `camera.device` names. For one thread.

    beside: the station file's folder, which the path of a film is relative to. Messages hide passwords of addresses.
    """

    def __init__(self, camera: CameraConfig, beside: Path) -> None:
        self._camera = camera
        self.kind = kind_of(camera.device)
        self._source = camera.device
        if self.kind is Kind.FILM:
            self._source = str(beside / user_path(camera.device, "camera.device"))
        self.name = redact(self._source)
        self._capture: cv2.VideoCapture | None = None
        self._last = 0.0
        self._first = True
        self.untaken: tuple[str, ...] = ()
        """Settings of the station file that the device did not take, in words."""
        self.left_out = 0
        """Pictures that came faster than `camera.rate_hz`."""

    @property
    def live(self) -> bool:
        """Whether it shows what is there now: a film does not."""
        return self.kind is not Kind.FILM

    def open(self) -> None:
        """Open it, again where it is open. Raises: StationError that says what is wrong and what helps."""
        self.close()
        self._check()
        options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        backend = cv2.CAP_FFMPEG if self.kind is Kind.FILM else self.kind.value
        capture = cv2.VideoCapture(self._source, backend, options if self.kind is Kind.STREAM else [])
        if not capture.isOpened():
            capture.release()
            raise StationError(f"camera: cannot open {self.name}; {_HELP[self.kind]}")
        if self.kind is Kind.V4L2:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._camera.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._camera.height)
            capture.set(cv2.CAP_PROP_FPS, self._camera.rate_hz)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.untaken = self._fix(capture)
        self._capture, self._first = capture, True

    def read(self) -> Shot | None:
        """The next picture that is due by `camera.rate_hz`; None where the camera is lost, and must be opened again."""
        period = 1.0 / self._camera.rate_hz
        if self.kind is Kind.FILM:
            time.sleep(max(0.0, self._last + period - time.monotonic()))
        while self._capture is not None:
            if not self._grabbed() and not self._rewound():
                return None
            taken, by_device = self._taken()
            if self.live and taken - self._last < EARLY * period:
                self.left_out += 1
                continue
            ok, picture = self._capture.retrieve()
            if not ok or picture is None:
                return None
            self._last = taken
            return Shot(_rgb(picture), taken, by_device)
        return None

    def close(self) -> None:
        """Let go of the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _check(self) -> None:
        """Raises: StationError where it is not there, or this OpenCV cannot read it."""
        if self.kind in (Kind.V4L2, Kind.FILM) and not os.path.exists(self._source):
            help_ = "plug the camera in or set camera.device" if self.kind is Kind.V4L2 else "correct camera.device"
            raise StationError(f"camera: {self.name} does not exist; {help_}")
        if self.kind is Kind.GSTREAMER and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise StationError(
                f"camera: this OpenCV ({cv2.__version__}) was built without GStreamer, which camera.device needs; use "
                "the distribution's python3-opencv, or name a video device or a stream"
            )

    def _fix(self, capture: cv2.VideoCapture) -> tuple[str, ...]:
        """Fix what the station file says; what the device did not take, in words."""
        untaken = []
        for name, value in self._camera.fixed.items():
            if self.kind is not Kind.V4L2:
                untaken.append(f"camera.{name}: {_ELSEWHERE[self.kind]}")
                continue
            wanted, automatic, off = MANUAL[name]
            if automatic is not None:
                capture.set(automatic, off)
            capture.set(wanted, value)
            found = capture.get(wanted)
            if found < 0:  # OpenCV's word for a control that the device has not
                untaken.append(f"camera.{name}: the device has no such setting")
            elif abs(found - value) > max(1.0, UNTAKEN * value):
                untaken.append(f"camera.{name}: wanted {value:g}, the device says {found:g}")
            elif automatic is not None and capture.get(automatic) != off:
                untaken.append(f"camera.{name}: the device leaves its automatic on")
        return tuple(untaken)

    def _grabbed(self) -> bool:
        """Whether a picture came, and may be called new. After a pause FFmpeg hands out what waited in its decoder, and
        a network what it held back: neither shows what is there now, so the stream counts as lost."""
        began = time.monotonic()
        if self._capture is None or not self._capture.grab():
            return False
        first, self._first = self._first, False  # it may wait for a whole picture of the stream
        return first or self.kind is not Kind.STREAM or time.monotonic() - began <= self._camera.max_age_s

    def _rewound(self) -> bool:
        """Whether a film that ended has begun again."""
        if self.kind is not Kind.FILM or self._capture is None:
            return False
        self._capture.release()
        self._capture = cv2.VideoCapture(self._source, cv2.CAP_FFMPEG)
        return self._capture.grab()

    def _taken(self) -> tuple[float, bool]:
        """When the grabbed picture was taken, seconds of the steady clock, and whether the device said so."""
        now = time.monotonic()
        if self.kind is Kind.V4L2 and self._capture is not None:
            told = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0  # the kernel's stamp of the buffer, steady clock
            if 0.0 < told <= now and now - told <= self._camera.max_age_s:
                return told, True
        return now, False


_HELP = {
    Kind.V4L2: "is it another program's, or are you missing from the group 'video'?",
    Kind.STREAM: "is the camera on, and are address, user and password right?",
    Kind.FILM: "is it a film that OpenCV's FFmpeg reads?",
    Kind.GSTREAMER: "try the pipeline with gst-launch-1.0, and end it with `! videoconvert ! appsink`",
}
_ELSEWHERE = {
    Kind.STREAM: "cannot be set through a stream; set it on the camera's own page",
    Kind.FILM: "a film has none; leave it out",
    Kind.GSTREAMER: "is the pipeline's; set it there (v4l2src extra-controls)",
}


def _rgb(picture: np.ndarray) -> np.ndarray:
    """OpenCV's picture, blue first or grey, as RGB (H, W, 3)."""
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB)

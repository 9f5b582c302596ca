"""The camera: one checked stream of frames, and a service that hands out one fresh frame.

Source "topic": a driver (or the simulated station) publishes the images and this node listens. Source "device": this
node opens the camera itself (`gymnast_nodes.camera_device`) and publishes its frames on the same topic, so that nobody
else sees a difference.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.srv import CaptureFrame
from sensor_msgs.msg import Image

from gymnast_core.data.frames import write_image
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.files import user_path
from gymnast_nodes.calls import ServiceCaller, sleep
from gymnast_nodes.camera_device import CameraDevice
from gymnast_nodes.camera_topic import CameraSubscription, advice, camera_qos, type_problem
from gymnast_nodes.frame_counts import FrameCounts
from gymnast_nodes.frame_time import Moment, StampClock
from gymnast_nodes.lifecycle import DiagnosticReport, Diagnostics, ManagedNode
from gymnast_nodes.messages import (
    Picture,
    frame_problem,
    frame_to_image,
    image_to_frame,
    picture_type,
    to_seconds,
)
from gymnast_nodes.parameters import check_seconds, parameter
from gymnast_nodes.reading import RateMeter
from gymnast_nodes.running import run_node
from gymnast_nodes.speakers import Speakers, StationSeats

MATCH_PERIOD_S = 1.0
"""How often the offer of the camera's publisher is looked at."""
MAX_AGE_S = 60.0
"""The longest that camera/capture_frame waits for a frame."""


class CameraNode(ManagedNode):
    """Watches the image stream and captures single fresh frames (camera/capture_frame)."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._camera = self.station.camera
        self._first_frame_timeout = parameter(
            self, "first_frame_timeout_s", 10.0, "how long to wait for the first frame on activation", 0.5, 120.0
        )
        self._calls = ServiceCaller(self)
        self._rate = RateMeter()
        self._stamps = StampClock(self._camera.max_age_s)
        self._moment = Moment(0.0, 0.0, 0.0, False)
        self._counts = FrameCounts()
        self._problem = ""
        self._waiting: list[Any] = []
        self._frames: CameraSubscription | None = None
        self._speakers = Speakers(self, [StationSeats(self, self.station).camera()])
        self._match_timer = self.create_timer(MATCH_PERIOD_S, self._match)
        self._device: CameraDevice | None = None
        self._diagnostics = Diagnostics(self, self._camera.topic)
        self._diagnostics.add("camera", self._report)
        self.create_service(CaptureFrame, "camera/capture_frame", self._on_capture)

    def configure(self) -> None:
        if self._camera.source == "device":
            self._device = CameraDevice(self, self._camera, Path(self.config_path).parent)

    def activate(self) -> None:
        """Raises: StationError when no frame comes, frames of another size or encoding, or those of two cameras."""
        self._speakers.wait_alone()
        if self._device is not None:
            self._device.start()
        topic, timeout = self._camera.topic, self._first_frame_timeout
        first = self._calls.receive(picture_type(self._camera), topic, camera_qos(self, topic), timeout)
        if first is None:
            publishers = self.count_publishers(topic)
            why = type_problem(self, self._camera) or "its publisher is silent"
            silent = "; ".join(filter(None, (why, advice(self, topic))))
            hint = silent if publishers else "nobody publishes it; is the camera driver running?"
            if self._device is not None:
                self._device.stop()
            raise StationError(f"camera: no frame on {topic} within {timeout:g} s: {hint}")
        self._problem = frame_problem(first, self._camera)
        if self._problem:
            if self._device is not None:
                self._device.stop()
            raise StationError(f"camera: {self._problem}")
        self._frames = CameraSubscription(self, topic, self._on_image, kind=picture_type(self._camera))

    def deactivate(self) -> None:
        if self._device is not None:
            self._device.stop()
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        self._counts.pause()

    def _match(self) -> None:
        """The driver may have been started anew, with other settings."""
        if self._frames is not None:
            self._frames.match()

    def cleanup(self) -> None:
        if self._device is not None:
            self._device.close()
            self._device = None

    def stop(self) -> None:
        self.deactivate()
        self._calls.close()

    def _on_image(self, message: Picture) -> None:
        self._rate.tick()
        self._moment = self._stamps.place(to_seconds(message.header.stamp))
        self._counts.take(self._moment)
        self._problem = frame_problem(message, self._camera)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(message)

    async def _on_capture(
        self, request: CaptureFrame.Request, response: CaptureFrame.Response
    ) -> CaptureFrame.Response:
        """camera/capture_frame: the next frame that arrives, so that what it shows is not older than the question."""
        try:
            max_age = check_seconds("max_age", request.max_age, MAX_AGE_S) or self._camera.max_age_s
            image = await self._fresh_frame(max_age)
            frame = image_to_frame(image, self._camera.topic)
            if request.path:
                path = _absolute(request.path)
                if path.suffix.lower() != ".png":
                    raise StationError(f"{path}: captured frames are written as .png")
                write_image(path, frame)
                response.path = str(path)
            plain = isinstance(image, Image) and image.encoding == "rgb8"
            response.image = image if plain else frame_to_image(frame, image.header.stamp, image.header.frame_id)
            response.success = True
            response.message = f"{frame.shape[1]}x{frame.shape[0]}, {self._age() * 1000:.0f} ms old"
        except GymnastError as error:
            response.success = False
            response.message = str(error)
            self.get_logger().error(str(error))
        return response

    async def _fresh_frame(self, max_age: float) -> Picture:
        """Wait for the next frame. Raises: StationError when it does not come, is stale or of the wrong kind."""
        if not self.is_active:
            raise StationError("camera: the node is not active; activate it first (the supervisor does)")
        if problem := self._speakers.look():
            raise StationError(f"camera: {problem}")
        arrived: Any = rclpy.task.Future()
        self._waiting.append(arrived)
        end = time.monotonic() + max(max_age, 3.0 / self._camera.rate_hz)
        while not arrived.done() and time.monotonic() < end:
            await sleep(self, 0.02)
        if not arrived.done():
            self._waiting.remove(arrived)
            silent = f"for {self._rate.age:.1f} s" if self._counts.frames else "yet"
            raise StationError(f"camera: no frame on {self._camera.topic} {silent}; is the camera running?")
        image: Picture = arrived.result()
        if self._problem:
            raise StationError(f"camera: {self._problem}")
        if self._age() > max_age:
            raise StationError(
                f"camera: the newest frame is {self._age():.2f} s old, allowed are {max_age:g} s; "
                "check the driver's clock and load"
            )
        return image

    def _age(self) -> float:
        """Seconds since the frame was taken; where its stamp is zero or ahead of the clock, since it arrived."""
        moment = self._moment
        return max(0.0, moment.late) + time.monotonic() - moment.arrived

    def _report(self) -> DiagnosticReport:
        values: dict[str, Any] = {"rate_hz": self._rate.rate, "age_s": self._rate.age, **self._counts.values}
        if self._device is not None:
            values.update(self._device.values)
        if not self.is_active:
            return DiagnosticStatus.OK, "not active", values
        if problem := self._speakers.look():
            return DiagnosticStatus.ERROR, problem, values
        if self._rate.age > self._camera.max_age_s:
            return DiagnosticStatus.ERROR, f"no frame for {self._rate.age:.1f} s", values
        if self._problem:
            return DiagnosticStatus.ERROR, self._problem, values
        if self._stamps.complaint:
            return DiagnosticStatus.WARN, self._stamps.complaint, values
        if self._device is not None and self._device.complaint:
            return DiagnosticStatus.WARN, self._device.complaint, values
        if self._rate.rate < 0.5 * self._camera.rate_hz:
            few = f"{self._rate.rate:.1f} frames/s, wanted {self._camera.rate_hz:g}"
            return DiagnosticStatus.WARN, "; ".join(filter(None, (few, advice(self, self._camera.topic)))), values
        return DiagnosticStatus.OK, "frames arrive", values


def _absolute(text: str) -> Path:
    """Raises: ConfigError where ~ names nobody."""
    return user_path(text).absolute()


def main() -> None:
    sys.exit(run_node(CameraNode))

"""The camera that this node opens itself, published on the camera's topic as a driver would."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from gymnast_core.config import CameraConfig
from gymnast_core.errors import StationError
from gymnast_core.files import user_path
from gymnast_core.robot.calibration import Calibration, read_calibration
from gymnast_core.robot.video import Video
from gymnast_nodes.clocks import STEADY
from gymnast_nodes.messages import frame_to_image
from gymnast_nodes.qos import COMMAND_QOS

REOPEN_S = 0.5
"""Pause before a lost camera is opened again."""
JOIN_S = 2.0
FRAME_ID = "camera"


class CameraDevice:
    """A `Video` read in a thread of its own. Every picture is published with the time at which it was taken; a camera
    that is lost is opened again until it is back.

    beside: the station file's folder. Raises: ConfigError for a calibration that cannot be used."""

    def __init__(self, node: Node, camera: CameraConfig, beside: Path) -> None:
        self._node = node
        self._video = Video(camera, beside)
        self._info: CameraInfo | None = None
        if camera.calibration:
            path = beside / user_path(camera.calibration, "camera.calibration")
            self._info = camera_info(read_calibration(path, camera))
            self._infos = node.create_publisher(CameraInfo, camera.info, COMMAND_QOS)
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._publisher = node.create_publisher(Image, camera.topic, COMMAND_QOS)
        self.reopened = 0
        """How often it was lost and came back."""
        self._by_device: bool | None = None

    def start(self) -> None:
        """Raises: StationError when the device cannot be opened."""
        if self._thread is not None and self._thread.is_alive():
            raise StationError(f"camera: {self._video.name} is still being read; activate again in a few seconds")
        self._video.open()
        self._tell()
        self._ending.clear()
        self._thread = threading.Thread(target=self._read, name="video device", daemon=True)
        self._thread.start()

    @property
    def complaint(self) -> str:
        """What is wrong with it and keeps nobody from acting; empty when nothing is."""
        film = "" if self._video.live else f"{self._video.name} is a film: it does not show what is there now"
        return "; ".join(filter(None, (film, *self._video.untaken)))

    @property
    def values(self) -> dict[str, object]:
        """For /diagnostics."""
        stamps = {None: "", True: "of the device", False: "of arrival"}[self._by_device]
        return {"reopened": self.reopened, "left_out": self._video.left_out, "stamps": stamps}

    def stop(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=JOIN_S)

    def close(self) -> None:
        self.stop()
        self._node.destroy_publisher(self._publisher)
        if self._info is not None:
            self._node.destroy_publisher(self._infos)

    def _read(self) -> None:
        while not self._ending.is_set():
            shot = self._video.read()
            if self._ending.is_set():
                break
            if shot is None:
                self._reopen()
                continue
            self._by_device = shot.by_device
            age = Duration(nanoseconds=max(0, int((time.monotonic() - shot.taken) * 1e9)))
            stamp = (self._node.get_clock().now() - age).to_msg()
            self._publisher.publish(frame_to_image(shot.frame, stamp, FRAME_ID))
            if self._info is not None:
                self._info.header.stamp = stamp
                self._infos.publish(self._info)
        self._video.close()

    def _reopen(self) -> None:
        """One attempt, after a pause."""
        message = f"camera: {self._video.name} gives no frames; opening it again"
        log = self._node.get_logger()
        log.error(message, throttle_duration_sec=5.0, throttle_time_source_type=STEADY)
        self._video.close()
        if self._ending.wait(REOPEN_S):
            return
        try:
            self._video.open()
        except StationError as error:
            log.error(str(error), throttle_duration_sec=5.0, throttle_time_source_type=STEADY)
            return
        self.reopened += 1
        self._tell()

    def _tell(self) -> None:
        if self.complaint:
            self._node.get_logger().warning(f"camera: {self.complaint}")


def camera_info(calibration: Calibration) -> CameraInfo:
    """The message that a calibration file stands for."""
    info = CameraInfo(width=calibration.image_width, height=calibration.image_height)
    info.header.frame_id = FRAME_ID
    info.distortion_model = calibration.distortion_model
    info.d = list(calibration.distortion_coefficients.data)
    info.k, info.r = list(calibration.camera_matrix.data), list(calibration.rectification_matrix.data)
    info.p = list(calibration.projection_matrix.data)
    return info

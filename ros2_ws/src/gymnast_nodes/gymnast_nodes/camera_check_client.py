"""The ROS side of `gymnast camera check`: a picture of the running station, or of whoever publishes the topic."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rclpy
from gymnast_msgs.srv import CaptureFrame
from rclpy.node import Node

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import StationError
from gymnast_core.evaluation.camera_check import LivePicture, device_picture, judge
from gymnast_core.evaluation.camera_check_config import CameraCheckConfig
from gymnast_core.ros_logs import settle_log_folder
from gymnast_core.station_file import find_station_file
from gymnast_nodes.calls import ServiceCaller
from gymnast_nodes.camera_topic import camera_qos, type_problem
from gymnast_nodes.client_verb import run_client
from gymnast_nodes.dead_ports import avoided_dead_ports, keep_standard_output
from gymnast_nodes.leaving import leave_at_the_end
from gymnast_nodes.messages import frame_problem, image_to_frame, picture_type

NODE_FIRST_S = 2.0
"""A publisher alone is asked after this long: a camera node knows more of its frames."""
ANSWER_S = 15.0
"""An answer of the camera node waits for a frame first."""
SERVICE = "camera/capture_frame"


def live_picture(node: Node, station: StationConfig, beside: Path, seconds: float) -> LivePicture:
    """From the camera node where there is one, else from the topic, else from the device that the file names.

    Raises: StationError where none of them gives a picture of the station's size.
    """
    camera = station.camera
    caller = ServiceCaller(node)
    try:
        began = time.monotonic()
        served = published = False
        while not (served or published) and time.monotonic() - began < seconds:
            served = not caller.wait_for([(CaptureFrame, SERVICE)], 0.2)
            late = time.monotonic() - began > min(NODE_FIRST_S, seconds / 2)
            published = late and not served and bool(node.count_publishers(camera.topic))
        if served:
            answer = caller.call(CaptureFrame, SERVICE, CaptureFrame.Request(), ANSWER_S)
            if not answer.success:
                raise StationError(str(answer.message))
            return LivePicture(image_to_frame(answer.image), f"the camera node, {answer.message}")
        if published:
            if problem := type_problem(node, camera):
                raise StationError(f"camera: {problem}")
            message = caller.receive(picture_type(camera), camera.topic, camera_qos(node, camera.topic), ANSWER_S)
            if message is None:
                raise StationError(f"camera: no frame on {camera.topic} within {ANSWER_S:g} s: its publisher is silent")
            if problem := frame_problem(message, camera):
                raise StationError(f"camera: {problem}")
            return LivePicture(image_to_frame(message, camera.topic), f"{camera.topic}; no camera node answers")
    finally:
        caller.close()
    if camera.source == "device":
        return device_picture(camera, beside, seconds)
    raise StationError(
        f"camera: no camera node answers {SERVICE}, and nobody publishes {camera.topic}; start the station or the "
        "camera's driver, or see --namespace and ROS_DOMAIN_ID"
    )


def check(config: CameraCheckConfig, nodes: list[Node]) -> int:
    """The exit code. nodes: takes the node that is made. Raises: GymnastError where there is nothing to compare."""
    path = find_station_file(config.config)
    station = load_config(StationConfig, path)
    if told := settle_log_folder():
        print(told, file=sys.stderr)
    keep_standard_output()
    rclpy.init(args=[])
    with avoided_dead_ports():
        nodes.append(rclpy.create_node("gymnast_camera_check", namespace=config.namespace or None))
    return judge(config, station, path, live_picture(nodes[0], station, path.parent, config.seconds))


def main() -> int:
    nodes: list[Node] = []
    code = run_client(CameraCheckConfig, lambda config: check(config, nodes), "interrupted")
    for node in nodes:
        leave_at_the_end(node, code)
    return code


if __name__ == "__main__":
    sys.exit(main())

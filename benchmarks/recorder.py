"""What the recorder loses and costs: `python -m benchmarks.recorder --seconds 30`.

Cameras of 640x480 pixels at 30 Hz (the station's own, and another one under `recorder.topics`), joint states at 100 Hz
and steps at 5 Hz are published by processes of their own. Stamps are numbers, so that a message that is missing between
the first and the last of the log is seen. The cost is the processor time of the recorder's process while it records, as
a share of one core, beside what a plain write of the same bytes takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from gymnast_msgs.msg import BridgeAction, EpisodeStep, ExecutedAction
from gymnast_msgs.srv import StartRecording, StopRecording
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from gymnast_core.data.mcap_log import read_messages
from gymnast_core.robot.ros_domain import claim_domain
from gymnast_nodes.step_assembler import header_stamp_ns

SIDE = (480, 640)
CAMERAS = ("/camera/image_raw", "/wrist/image_raw")
JOINTS = "/wx250s/joint_states"
RATES = {**dict.fromkeys(CAMERAS, 30.0), JOINTS: 100.0}
HEAD = ("cameras", "messages in the log", "lost", "MB a second", "share of a core", "a plain write of it")
EPISODE = "measured"
STAMP = slice(4, 12)
"""Where a serialised message with a header has its stamp."""


def publish(topic: str, until: float) -> None:
    """A process of its own: one topic at its rate, the stamps numbered, as bytes that were serialised once."""
    rclpy.init()
    node = rclpy.create_node(topic.strip("/").replace("/", "_"))
    if topic == JOINTS:
        kind: Any = JointState
        message: Any = JointState(name=[f"joint_{k}" for k in range(9)], position=[0.1] * 9, velocity=[0.0] * 9)
    else:
        kind, message = Image, Image(height=SIDE[0], width=SIDE[1], step=SIDE[1] * 3, encoding="rgb8")
        message.data.frombytes(np.random.default_rng(0).integers(0, 255, (*SIDE, 3), np.uint8).tobytes())
    publisher = node.create_publisher(kind, topic, 10)
    data = bytearray(serialize_message(message))
    period, number, began = 1.0 / RATES[topic], 0, time.monotonic()
    while time.monotonic() < until and rclpy.ok():
        data[STAMP] = np.array([number + 1, 0], "<u4").tobytes()
        with contextlib.suppress(Exception):  # the benchmark has ended meanwhile
            publisher.publish(bytes(data))
        number += 1
        time.sleep(max(0.0, began + number * period - time.monotonic()))
    rclpy.try_shutdown()


class Client:
    """Asks the recorder to record, and publishes steps meanwhile."""

    def __init__(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node("recorder_benchmark")
        self._actions = self.node.create_publisher(BridgeAction, "arm/action", 10)
        self._steps = self.node.create_publisher(EpisodeStep, "executor/step", 10)
        self._executed = self.node.create_publisher(ExecutedAction, "arm/executed", 10)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with contextlib.suppress(Exception):  # the context goes down under it
            rclpy.spin(self.node)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """A service's answer. Raises: TimeoutError, RuntimeError with what it says is wrong."""
        client = self.node.create_client(kind, name)
        if not client.wait_for_service(30.0):
            raise TimeoutError(f"{name} is not there")
        future, began = client.call_async(request), time.monotonic()
        while not future.done():
            if time.monotonic() - began > 30.0:
                raise TimeoutError(f"{name} does not answer")
            time.sleep(0.01)
        if not future.result().success:
            raise RuntimeError(f"{name}: {future.result()}")
        return future.result()

    def step(self, number: int) -> None:
        action = BridgeAction(episode_id=EPISODE, step=number, gripper=1.0)
        action.header.stamp = self.node.get_clock().now().to_msg()
        self._actions.publish(action)
        self._steps.publish(EpisodeStep(header=action.header, episode_id=EPISODE, step=number, action=action))
        self._executed.publish(ExecutedAction(header=action.header, commanded=action, gripper=1.0, accepted=True))


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended afterwards."""
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10.0)
        process.kill()


def wait_for_publishers(node: Any, topics: tuple[str, ...]) -> None:
    """Until all are there, and the recorder, which looks for them twice a second, has seen them."""
    while not all(node.get_publishers_info_by_topic(topic) for topic in topics):
        time.sleep(0.1)
    time.sleep(2.0)


def processor_seconds(process: int) -> float:
    """Processor time that a process has taken, all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def missing(log: Path) -> dict[str, tuple[int, int]]:
    """(messages in the log, how many lack between the first and the last) by topic."""
    numbers: dict[str, list[int]] = {topic: [] for topic in RATES}
    for topic, data, _, _ in read_messages(log):
        if topic.name in numbers:
            numbers[topic.name].append(header_stamp_ns(data) // 10**9)
    return {
        topic: (len(found), max(found) - min(found) + 1 - len(set(found)))
        for topic, found in numbers.items()
        if found
    }  # fmt: skip


def plain_write(log: Path, folder: Path) -> float:
    """Processor seconds of writing the log's bytes anew, in pieces as large as a picture."""
    data = log.read_bytes()
    began = time.process_time()
    with open(folder / "plain", "wb", buffering=0) as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
    return time.process_time() - began


def measure(cameras: tuple[str, ...], seconds: float, folder: Path) -> str:
    """A row of the table."""
    recorder = {"folder": str(folder / "episodes"), "min_free_mb": 1}
    recorder |= {"topics": dict.fromkeys(cameras[1:], "sensor_msgs/msg/Image")}  # type: ignore[dict-item]
    station = {"name": "measured", "tasks": {"measured": {"instruction": "measure"}}, "recorder": recorder}
    (folder / "station.yaml").write_text(yaml.safe_dump(station))
    code = "import sys; from gymnast_nodes.recorder_node import main; sys.exit(main())"
    options = ["--ros-args", "-r", "__node:=recorder", "-p", f"config:={folder / 'station.yaml'}"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(running([sys.executable, "-c", code, *options]))
        for topic in (*cameras, JOINTS):
            own = [sys.executable, "-m", "benchmarks.recorder", "--publish", topic, "--seconds", str(seconds + 60.0)]
            stack.enter_context(running(own))
        client = Client()
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            change = ChangeState.Request(transition=Transition(id=transition))
            client.call(ChangeState, "recorder/change_state", change)
        wait_for_publishers(client.node, (*cameras, JOINTS))
        request = StartRecording.Request(episode_id=EPISODE, instruction="measure")
        client.call(StartRecording, "recorder/start", request)
        time.sleep(1.0)
        began, spent = time.monotonic(), processor_seconds(process.pid)
        for number in range(int(seconds * 5)):
            client.step(number)
            time.sleep(max(0.0, began + (number + 1) / 5.0 - time.monotonic()))
        share = (processor_seconds(process.pid) - spent) / (time.monotonic() - began)
        stop = StopRecording.Request(episode_id=EPISODE, outcome_json='{"outcome": "success"}')
        client.call(StopRecording, "recorder/stop", stop)
        rclpy.shutdown()
    log = folder / "episodes" / EPISODE / "log" / "log_0.mcap"
    found = missing(log)
    short = [topic for topic, rate in RATES.items() if topic in found and found[topic][0] < 0.95 * rate * seconds]
    lost = sum(lacks for _, lacks in found.values())
    told = ", ".join(f"{count} on {topic}" for topic, (count, _) in found.items())
    late = f" (published more slowly: {', '.join(short)})" if short else ""
    plain = plain_write(log, folder) / seconds
    size = log.stat().st_size / seconds / 1e6
    return f"| {len(cameras)} | {told}{late} | {lost} | {size:.0f} | {share:.0%} | {plain:.0%} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each recording")
    parser.add_argument("--folder", default=None, help="where the logs go; by default the system's temporary folder")
    parser.add_argument("--publish", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(options.publish, time.monotonic() + options.seconds)
        return 0
    from benchmarks.measure import hardware  # with torch, which publishers need not wait for

    os.environ["ROS_DOMAIN_ID"] = str(claim_domain())
    print(hardware("cpu"))
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for cameras in (CAMERAS[:1], CAMERAS):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(measure(cameras, options.seconds, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

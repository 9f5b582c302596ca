"""The recorder process keeps every message, survives being killed, and says in one line when the disk is full."""

# ruff: noqa: E402 - ROS is asked for before it is imported

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here; run `make setup` or source one")
pytest.importorskip("gymnast_msgs.msg", reason="the ROS interfaces are not built; run `make setup`")

from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep, ExecutedAction
from gymnast_msgs.srv import StartRecording, StopRecording
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rclpy.executors import SingleThreadedExecutor
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState

import gymnast_nodes  # noqa: F401 - its shared memory settings, before the first participant
from gymnast_core.data.episode import read_episode
from gymnast_core.data.recover import RecoverConfig, recover

ROOT = Path(__file__).resolve().parents[1]
SIDE = (480, 640)


class Publishers:
    """What a station publishes, at its rates, from one process; counts what it sent."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.sent: dict[str, int] = {"image": 0, "joint_states": 0}
        best_effort = rclpy.qos.QoSProfile(depth=5, reliability=rclpy.qos.ReliabilityPolicy.BEST_EFFORT)
        self.images = node.create_publisher(Image, "/camera/image_raw", best_effort)
        self.joints = node.create_publisher(JointState, "/wx250s/joint_states", 10)
        self.actions = node.create_publisher(BridgeAction, "arm/action", 10)
        self.executed = node.create_publisher(ExecutedAction, "arm/executed", 10)
        self.states = node.create_publisher(ArmState, "arm/state", 10)
        self.steps = node.create_publisher(EpisodeStep, "executor/step", 10)
        self._joint_ns = time.time_ns()

    def now(self) -> Any:
        return self.node.get_clock().now().to_msg()

    def image(self) -> None:
        import array

        frame = np.zeros((*SIDE, 3), np.uint8)
        frame[:, :, self.sent["image"] % 3] = self.sent["image"] % 256
        message = Image(height=SIDE[0], width=SIDE[1], step=SIDE[1] * 3, encoding="rgb8")
        message.data = array.array("B", frame.tobytes())
        message.header.stamp = self.now()
        self.images.publish(message)
        self.sent["image"] += 1

    def joint(self) -> None:
        self._joint_ns += 10_000_000
        message = JointState(name=["waist"], position=[0.1], velocity=[0.0], effort=[0.0])
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._joint_ns, 1_000_000_000)
        self.joints.publish(message)
        self.sent["joint_states"] += 1
        if self.sent["joint_states"] % 5 == 0:
            state = ArmState(gripper=1.0)
            state.bridge_pose = np.array([0.25, 0, 0.2, 0, 0, 0], np.float32)
            state.header.stamp = message.header.stamp
            self.states.publish(state)

    def step(self, episode_id: str, step: int) -> None:
        action = BridgeAction(episode_id=episode_id, step=step, gripper=1.0)
        action.translation = np.array([0.01, 0, 0], np.float32)
        action.header.stamp = self.now()
        self.actions.publish(action)
        self.steps.publish(EpisodeStep(header=action.header, episode_id=episode_id, step=step, action=action))
        executed = ExecutedAction(commanded=action, gripper=1.0, accepted=True, safety_events=["clipped"])
        executed.translation = np.array([0.005, 0, 0], np.float32)
        executed.header.stamp = self.now()
        self.executed.publish(executed)

    def play(self, seconds: float, episode_id: str) -> int:
        """Joint states at 100 Hz, frames at 20 Hz, steps at 5 Hz; returns the number of steps."""
        start = time.monotonic()
        steps = 0
        for tick in range(int(seconds * 100)):
            self.joint()
            if tick % 5 == 0:
                self.image()
            if tick % 20 == 10:
                self.step(episode_id, steps)
                steps += 1
            time.sleep(max(0.0, start + (tick + 1) * 0.01 - time.monotonic()))
        return steps


class Recorder:
    """A recorder process and a client of its services."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import yaml

        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "station.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.context = rclpy.Context()
        rclpy.init(context=self.context, args=[])
        self.node = rclpy.create_node("recorder_test", context=self.context)
        self.publishers = Publishers(self.node)
        self.status: list[DiagnosticStatus] = []
        self.node.create_subscription(DiagnosticStatus, "recorder/status", self.status.append, 50)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()
        self.process = self.start_process()

    def start_process(self) -> subprocess.Popen[str]:
        code = "import sys; from gymnast_nodes.recorder_node import main; sys.exit(main())"
        arguments = ["--ros-args", "-r", "__node:=recorder", "-p", f"config:={self.config}"]
        self.log_file = open(self.folder / "recorder.log", "a")  # noqa: SIM115 - open while the process lives
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=self.log_file, stderr=subprocess.STDOUT, text=True
        )
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            answer = self.call(
                ChangeState, "recorder/change_state", ChangeState.Request(transition=Transition(id=transition))
            )
            assert answer.success, (self.folder / "recorder.log").read_text()
        return process

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(20.0), f"{name} is not there"
        for _ in range(10):  # a server killed a moment ago still looks alive
            future = client.call_async(request)
            end = time.monotonic() + 3
            while not future.done() and time.monotonic() < end:
                time.sleep(0.01)
            if future.done():
                self.node.destroy_client(client)
                return future.result()
        raise AssertionError(f"{name} did not answer")

    def record(self, episode_id: str) -> Any:
        self.publishers.image()
        time.sleep(1.0)  # the recorder looks for publishers twice a second
        request = StartRecording.Request(episode_id=episode_id, instruction="close the drawer")
        request.metadata_json = json.dumps({"task": "close_drawer"})
        return self.call(StartRecording, "recorder/start", request)

    def finish(self, episode_id: str) -> Any:
        request = StopRecording.Request(episode_id=episode_id, outcome_json='{"outcome": "success", "success": true}')
        return self.call(StopRecording, "recorder/stop", request)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(10)
        self.log_file.close()
        self.executor.shutdown()
        self.context.try_shutdown()
        self.thread.join(5)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    os.environ["ROS_DOMAIN_ID"] = str(100 + os.getpid() % 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    folder = tmp_path_factory.mktemp("recorder")
    config = {
        "name": "bench",
        "tasks": {"close_drawer": {"instruction": "close the drawer"}},
        "camera": {"observation_size": 64},
        "recorder": {"folder": str(folder / "episodes"), "min_free_mb": 1},
    }
    found = Recorder(folder, config)
    yield found
    found.close()


def test_every_message_published_is_in_the_log_and_other_readers_open_it(recorder: Recorder) -> None:
    started = recorder.record("whole")
    assert started.success, started.message
    before = dict(recorder.publishers.sent)
    steps = recorder.publishers.play(4.0, "whole")
    recorder.publishers.image()
    sent = {key: value - before[key] for key, value in recorder.publishers.sent.items()}
    time.sleep(0.3)
    stopped = recorder.finish("whole")
    assert stopped.success, stopped.message
    assert (stopped.steps, stopped.frames, stopped.joint_states) == (steps, sent["image"], sent["joint_states"])

    folder = Path(stopped.path)
    with AnyReader([folder / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        counts = {topic: information.msgcount for topic, information in reader.topics.items()}
        stamps = []
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic == "/wx250s/joint_states":
                stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
    assert counts["/camera/image_raw"] == sent["image"]
    assert counts["/wx250s/joint_states"] == sent["joint_states"]
    assert counts["/arm/executed"] == counts["/arm/action"] == counts["/executor/step"] == steps
    assert set(np.diff(np.sort(stamps))) == {10_000_000}

    with open(folder / "log" / "log_0.mcap", "rb") as file:
        mcap = make_reader(file, decoder_factories=[DecoderFactory()])
        decoded = [message.decoded_message for message in mcap.iter_decoded_messages(topics=["/executor/step"])]
    assert [message.step for message in decoded] == list(range(steps))

    episode = read_episode(folder)
    assert episode.length == steps and episode.complete and episode.success is True
    assert episode.frames.shape == (steps + 1, 64, 64, 3)
    assert np.all(np.diff(episode.stamps) > 0)
    np.testing.assert_allclose(episode.actions[:, 0], 0.01, atol=1e-6)
    np.testing.assert_allclose(episode.executed[:, 0], 0.005, atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 0], 0.25, atol=1e-6)
    assert episode.metadata["task"] == "close_drawer"


def test_a_full_disk_is_one_clear_line_and_leaves_readable_logs(recorder: Recorder) -> None:
    assert recorder.record("full").success
    limits = resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE)
    recorder.publishers.play(1.0, "full")
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (12_000_000, limits[1]))
    try:
        recorder.status.clear()
        recorder.publishers.play(1.0, "full")
        failed = [status for status in recorder.status if status.level == DiagnosticStatus.ERROR]
        assert failed and failed[0].hardware_id == "full" and "cannot write" in failed[0].message
        assert "\n" not in failed[0].message
    finally:
        resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, limits)
    folder = recorder.folder / "episodes" / "full"
    assert not read_episode(folder).complete
    assert not list(folder.rglob("*.tmp"))
    assert recover(RecoverConfig(folder)) == 0
    with AnyReader([folder / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        assert reader.message_count > 100
    assert recorder.record("after").success
    recorder.publishers.play(0.5, "after")
    assert recorder.finish("after").success


def test_a_killed_recorder_leaves_the_log_up_to_the_last_step(recorder: Recorder) -> None:
    assert recorder.record("killed").success
    steps = recorder.publishers.play(2.0, "killed")
    time.sleep(0.3)
    recorder.process.kill()
    recorder.process.wait()
    folder = recorder.folder / "episodes" / "killed"
    assert read_episode(folder).length >= steps - 1
    recorder.process = recorder.start_process()  # repairs what its predecessor left
    end = time.monotonic() + 10
    while not (folder / "log" / "metadata.yaml").exists() and time.monotonic() < end:
        time.sleep(0.1)
    with AnyReader([folder / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        counts = {topic: information.msgcount for topic, information in reader.topics.items()}
    assert counts["/executor/step"] == counts["/arm/executed"] == steps
    assert json.loads((folder / "episode.json").read_text())["status"] == "incomplete"


@pytest.mark.parametrize("episode_id", ["", "../out", "a/b", "x" * 200])
def test_names_that_are_no_folder_names_are_refused(recorder: Recorder, episode_id: str) -> None:
    answer = recorder.record(episode_id)
    assert not answer.success and "allowed" in answer.message

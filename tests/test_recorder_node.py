"""The recorder process keeps every message, survives being killed, and says in one line when the disk is full."""

from __future__ import annotations

import json
import re
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
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
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
from std_msgs.msg import Bool

import gymnast_nodes  # noqa: F401 - its shared memory settings, before the first participant
from gymnast_core.data.episode import read_episode
from gymnast_core.data.formats import open_episode
from gymnast_core.data.recover import RecoverConfig, recover
from gymnast_core.robot.strain import read_strain
from gymnast_nodes.truth import TRUTH_TOPIC, truth_message
from tests.machine import HANG_S
from tests.ros_tools import wait_until

ROOT = Path(__file__).resolve().parents[1]
SIDE = (480, 640)
DONE_FROM = 25
"""The picture that first shows the task done."""


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
        self.truths = node.create_publisher(DiagnosticArray, TRUTH_TOPIC, 10)
        self.wrist = node.create_publisher(Image, "/wrist/image_raw", best_effort)
        self.button = node.create_publisher(Bool, "/button", 10)
        self._joint_ns = time.time_ns()
        self.stamps = "right"
        """How pictures are stamped: right, zero, swapped (every two in the wrong order), or seconds ahead."""
        self.taken: dict[int, int] = {}
        """When each picture was really taken, nanoseconds, by the number that its pixels show."""
        self._held: Image | None = None
        self.mute: frozenset[int] = frozenset()
        """Steps that the arm does not answer."""
        self.answer_after_s = 0.0
        self.hold_at = -1
        """Tick of `play` at which the arm is held for an overload."""
        self.holds, self.load = 0, 0.5
        self._answers: list[tuple[float, ExecutedAction]] = []

    def now(self) -> Any:
        return self.node.get_clock().now().to_msg()

    def image(self) -> None:
        import array

        frame = np.zeros((*SIDE, 3), np.uint8)
        frame[:, :, self.sent["image"] % 3] = self.sent["image"] % 256
        message = Image(height=SIDE[0], width=SIDE[1], step=SIDE[1] * 3, encoding="rgb8")
        message.data = array.array("B", frame.tobytes())
        self.taken[self.sent["image"] % 256] = taken = time.time_ns()
        if self.stamps not in ("zero", "right", "swapped"):
            taken += int(float(self.stamps) * 1e9)
        if self.stamps != "zero":
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(taken, 10**9)
        done = {"open_drawer": False, "close_drawer": self.sent["image"] >= DONE_FROM}
        self.truths.publish(truth_message(message.header.stamp, done))
        self.sent["image"] += 1
        if self.stamps == "swapped" and self._held is None:
            self._held = message
            return
        self.images.publish(message)
        self.wrist.publish(message)
        self.button.publish(Bool(data=done["close_drawer"]))
        if self._held is not None:
            self.images.publish(self._held)
            self._held = None

    def joint(self) -> None:
        self._joint_ns += 10_000_000
        message = JointState(name=["waist"], position=[0.1], velocity=[0.0], effort=[0.0])
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._joint_ns, 1_000_000_000)
        self.joints.publish(message)
        self.sent["joint_states"] += 1
        if self.sent["joint_states"] % 5 == 0:
            state = ArmState(gripper=1.0, holds=self.holds, hold="overload" if self.holds else "")
            state.load = np.array([0.1, self.load, 0, 0, 0, np.nan], np.float32)
            state.bridge_pose = np.array([0.25, 0, 0.2, 0, 0, 0], np.float32)
            state.header.stamp = self.now()  # joint stamps keep their rhythm also where this process is late
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
        if step not in self.mute:
            self._answers.append((time.monotonic() + self.answer_after_s, executed))
        self.answer()

    def answer(self) -> None:
        """Publish the answers that are due."""
        while self._answers and self._answers[0][0] <= time.monotonic():
            self.executed.publish(self._answers.pop(0)[1])

    def play(self, seconds: float, episode_id: str) -> int:
        """Joint states at 100 Hz, frames at 20 Hz, steps at 5 Hz; returns the number of steps."""
        start = time.monotonic()
        steps = 0
        for tick in range(int(seconds * 100)):
            self.holds += tick == self.hold_at
            self.load = 1.25 if 0 <= tick - self.hold_at < 5 and self.hold_at >= 0 else 0.5
            self.joint()
            self.answer()
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
        heard = [self.publishers.images, self.publishers.joints, self.publishers.actions]
        heard += [self.publishers.executed, self.publishers.states, self.publishers.steps, self.publishers.truths]
        heard += [self.publishers.wrist, self.publishers.button]
        # The recorder looks for publishers twice a second. A killed one's subscriptions are there a while longer.
        time.sleep(1.0)
        wait_until(lambda: all(one.get_subscription_count() for one in heard), 20.0, "a recorder that listens")
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
    folder = tmp_path_factory.mktemp("recorder")
    config = {
        "name": "bench",
        "tasks": {"close_drawer": {"instruction": "close the drawer"}},
        "camera": {"observation_size": 64},
        "recorder": {
            "folder": str(folder / "episodes"),
            "min_free_mb": 1,
            "topics": {"/wrist/image_raw": "sensor_msgs/msg/Image", "/button": "std_msgs/msg/Bool"},
        },
    }
    found = Recorder(folder, config)
    yield found
    found.close()


def test_every_message_published_is_in_the_log_and_other_readers_open_it(recorder: Recorder) -> None:
    recorder.publishers.sent["image"] = 0  # pictures are numbered from here on, whichever test came before
    started = recorder.record("whole")
    assert started.success, started.message
    before = dict(recorder.publishers.sent)
    recorder.publishers.hold_at = 78  # after the fourth action, before the fifth
    steps = recorder.publishers.play(4.0, "whole")
    recorder.publishers.hold_at = -1
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
    assert counts["/camera/image_raw"] == counts["/wrist/image_raw"] == counts["/button"] == sent["image"]
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
    cost = read_strain(folder)
    assert [number for number, step in enumerate(cost) if step.holds] == [3] and cost[3].holds == ("overload",)
    assert [step.load for step in cost] == [1.25 if number == 3 else 0.5 for number in range(steps)]
    assert np.all(np.diff(episode.stamps) > 0)
    np.testing.assert_allclose(episode.actions[:, 0], 0.01, atol=1e-6)
    np.testing.assert_allclose(episode.executed[:, 0], 0.005, atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 0], 0.25, atol=1e-6)
    assert episode.metadata["task"] == "close_drawer"
    shown = [int(frame.max()) for frame in episode.frames]  # the number of each picture
    assert counts["/station/truth"] == sent["image"] and shown[1] < DONE_FROM < shown[-1]
    assert open_episode(folder).truths() == [number >= DONE_FROM for number in shown[1:]], "each of its own picture"


FOXGLOVE = {"sensor_msgs/msg/Image", "sensor_msgs/msg/JointState", "diagnostic_msgs/msg/DiagnosticArray"}
"""Schemas that Foxglove draws without a plug-in (docs.foxglove.dev, "Message schemas"); it plots any number."""


def test_the_log_shows_pictures_and_joints_in_foxglove_by_the_layout_that_is_shipped(recorder: Recorder) -> None:
    assert recorder.record("seen").success
    recorder.publishers.play(1.0, "seen")
    recorder.publishers.image()
    time.sleep(0.3)
    folder = Path(recorder.finish("seen").path)
    layout = json.loads((Path(__file__).parent.parent / "docs" / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    placed = set(re.findall(r'"([A-Za-z]+!\w+)"', json.dumps(layout["layout"])))
    assert placed == set(panels)
    paths = set(re.findall(r'"(/[^"]+)"', json.dumps(panels)))
    with open(folder / "log" / "log_0.mcap", "rb") as file:
        log = make_reader(file, decoder_factories=[DecoderFactory()])
        summary = log.get_summary()
        assert summary is not None
        schemas = {channel.topic: summary.schemas[channel.schema_id] for channel in summary.channels.values()}
        messages = {item.channel.topic: item.decoded_message for item in log.iter_decoded_messages()}
    assert {schema.encoding for schema in schemas.values()} == {"ros2msg"}
    assert {path.partition(".")[0] for path in paths} <= set(schemas), "every panel has its topic in the log"
    drawn = {schemas[topic].name for topic in ("/camera/image_raw", "/wx250s/joint_states", "/station/truth")}
    assert drawn == FOXGLOVE
    picture = messages["/camera/image_raw"]
    frame = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    assert picture.encoding == "rgb8" and frame.any()
    for path in paths:  # each plotted number is there
        topic, _, place = path.partition(".")
        value: Any = messages[topic]
        for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", place):
            value = getattr(value, name)
            value = value[min(int(index), len(value) - 1)] if index else value  # this driver has one joint
        assert not place or np.isscalar(value), path


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
        assert reader.message_count > 30, "whole chunks from before the disk was full"
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
    wait_until(lambda: (folder / "log" / "metadata.yaml").exists(), 10.0, "a mended log")
    with AnyReader([folder / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        counts = {topic: information.msgcount for topic, information in reader.topics.items()}
    assert counts["/executor/step"] == counts["/arm/executed"] == steps
    assert json.loads((folder / "episode.json").read_text())["status"] == "incomplete"


@pytest.mark.parametrize("stamps", ["right", "zero", "swapped", "5", "0.3", "-0.3"])
def test_no_picture_taken_after_an_action_stands_before_it(recorder: Recorder, stamps: str) -> None:
    """Whatever the camera's stamps say; and what is wrong with them stands in the episode."""
    publishers = recorder.publishers
    publishers.stamps = stamps
    try:
        assert recorder.record(f"stamps_{stamps}").success
        publishers.play(2.0, f"stamps_{stamps}")
        for _ in range(12):  # a camera goes on
            time.sleep(0.05)
            publishers.image()
        stopped = recorder.finish(f"stamps_{stamps}")
        assert stopped.success and not stopped.message
    finally:
        publishers.stamps = "right"
    folder = Path(stopped.path)
    episode = read_episode(folder)
    lines = [json.loads(text) for text in (folder / "steps.jsonl").read_text().splitlines()]
    sent = [line["stamp_ns"] for line in lines if "step" in line]
    taken = [publishers.taken[int(frame.max())] for frame in episode.frames]
    ages = [(action - picture) * 1e-9 for action, picture in zip(sent, taken, strict=False)]
    assert len(sent) == episode.length == 10 and episode.complete
    assert min(ages) >= 0.0, ages
    assert float(np.median(ages)) < 0.5, ages
    assert taken[-1] > sent[-1], "the last picture shows what came of the last action"
    told = episode.metadata.get("frame_stamps", "")
    wanted = {"zero": "zero", "swapped": "out of order", "5": "ahead of the clock", "0.3": "ahead of the clock"}
    assert wanted[stamps] in told if stamps in wanted else not told


def test_a_step_without_a_picture_of_its_own_ends_the_recording(recorder: Recorder) -> None:
    assert recorder.record("blind").success
    recorder.publishers.play(0.5, "blind")
    time.sleep(2.3)
    recorder.publishers.step("blind", 2)
    wait_until(lambda: any("was sent, allowed" in status.message for status in recorder.status), 5.0, "a refusal")
    assert not read_episode(recorder.folder / "episodes" / "blind").complete


def test_a_log_that_lacks_answers_says_so(recorder: Recorder) -> None:
    publishers = recorder.publishers
    assert recorder.record("unanswered").success
    publishers.mute = frozenset((2, 3, 9))
    try:
        steps = publishers.play(2.0, "unanswered")
        publishers.image()
        stopped = recorder.finish("unanswered")
    finally:
        publishers.mute = frozenset()
    assert stopped.success and f"3 of {steps} steps have no answer" in stopped.message
    episode = read_episode(stopped.path)
    assert episode.length == steps and not episode.complete and episode.metadata["log_unanswered"] == 3
    assert np.flatnonzero(np.isnan(episode.executed).any(axis=1)).tolist() == [2, 3, 9]


def test_answers_that_come_late_are_in_the_episode(recorder: Recorder) -> None:
    publishers = recorder.publishers
    assert recorder.record("late").success
    publishers.answer_after_s = 1.0
    try:
        steps = publishers.play(2.0, "late")
        publishers.image()
        request = StopRecording.Request(episode_id="late", outcome_json="{}")
        client = recorder.node.create_client(StopRecording, "recorder/stop")
        assert client.wait_for_service(10.0)
        stopping = client.call_async(request)
        wait_until(lambda: publishers.answer() or stopping.done(), 10.0, "the end of the recording")
    finally:
        publishers.answer_after_s = 0.0
    stopped = stopping.result()
    assert stopped.success and not stopped.message
    episode = read_episode(stopped.path)
    assert episode.complete and episode.answered == episode.length == steps


def test_a_lost_step_ends_the_recording(recorder: Recorder) -> None:
    assert recorder.record("lost").success
    recorder.publishers.play(0.5, "lost")
    recorder.publishers.step("lost", 7)
    wait_until(lambda: any("did not reach the recorder" in status.message for status in recorder.status), 5.0, "an end")


def test_killing_a_listener_costs_the_log_nothing(recorder: Recorder) -> None:
    """A process that heard the same topics is killed in mid-episode, and its reader says no farewell."""
    code = (
        "import rclpy, gymnast_nodes\nfrom gymnast_msgs.msg import *\nrclpy.init()\nn = rclpy.create_node('listener')\n"
        "for kind, topic in ((ExecutedAction, 'arm/executed'), (EpisodeStep, 'executor/step')):\n"
        "    n.create_subscription(kind, topic, lambda m: None, 10)\nprint('up', flush=True)\nrclpy.spin(n)\n"
    )
    assert recorder.record("listener").success
    listener = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None and listener.stdout.readline() == "up\n"
        wait_until(lambda: recorder.publishers.executed.get_subscription_count() >= 2, 10.0, "the listener")
        killing = threading.Timer(1.5, listener.kill)
        killing.start()
        steps = recorder.publishers.play(8.0, "listener")
        recorder.publishers.image()
    finally:
        listener.kill()
        listener.wait()
    stopped = recorder.finish("listener")
    assert stopped.success and not stopped.message
    episode = read_episode(stopped.path)
    assert episode.complete and episode.answered == episode.length == steps


@pytest.mark.parametrize("episode_id", ["", "../out", "a/b", "x" * 200])
def test_names_that_are_no_folder_names_are_refused(recorder: Recorder, episode_id: str) -> None:
    answer = recorder.record(episode_id)
    assert not answer.success and "allowed" in answer.message


@pytest.mark.parametrize(
    ("topic", "kind", "told"),
    [
        ("/camera/image_raw", "sensor_msgs/msg/Image", "/camera/image_raw is recorded already"),
        ("/force", "lab_msgs/msg/Force", "lab_msgs/msg/Force, which is not installed"),
        ("/force", "sensor_msgs/Image", "recorder.topics./force"),
        ("for ce", "sensor_msgs/msg/Image", "for ce"),
    ],
)
def test_a_further_topic_that_cannot_be_recorded_ends_the_start_in_one_line(
    tmp_path: Path, topic: str, kind: str, told: str
) -> None:
    station = tmp_path / "station.yaml"
    tasks = {"close_drawer": {"instruction": "close the drawer"}}
    station.write_text(json.dumps({"name": "bench", "tasks": tasks, "recorder": {"topics": {topic: kind}}}))
    code = "import sys; from gymnast_nodes.recorder_node import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--ros-args", "-r", "__node:=recorder", "-p", f"config:={station}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    said = [line for line in done.stderr.splitlines() if "RTPS" not in line]
    assert done.returncode == 2 and len(said) == 1 and told in said[0], done.stderr

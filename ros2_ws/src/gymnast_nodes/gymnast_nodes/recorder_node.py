"""The recorder: one folder an episode, with every message in an MCAP log and every step in the episode format.

Topics are taken as serialised bytes with deep queues and the reliability their publisher offers, handed to a writing
thread at once, and flushed at each step, so that nothing is lost while the disk is busy and a killed recorder leaves
a log that ends with the last step. Episodes its predecessor left open are repaired when it is configured.

Between episodes messages wake nobody: they wait in their readers and are taken, and mostly dropped, twice a second.

When the executor dies in mid-episode, the recording is closed as aborted.

While it records it says so on `recorder/status` every 50 ms; the executor sends no action that nobody would log.
"""

from __future__ import annotations

import collections
import contextlib
import json
import queue
import re
import shutil
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep, ExecutedAction
from gymnast_msgs.srv import StartRecording, StopRecording
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState

from gymnast_core.data.episode import EpisodeWriter, iterate_episodes
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.mcap_log import McapLog, Topic
from gymnast_core.data.recover import LOG_FOLDER, recover_episode
from gymnast_core.errors import ConfigError, DataError, GymnastError, StationError
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_nodes.common import (
    HEADER_BYTES,
    Diagnostics,
    GatedGroup,
    ManagedNode,
    image_to_frame,
    raw_callback,
    run_node,
    sleep,
    take_waiting,
)
from gymnast_nodes.liveness import Liveness
from gymnast_nodes.message_text import message_definition

STATUS_TOPIC = "recorder/status"
STATUS_PERIOD_S = 0.05
QUEUE_DEPTH = 2000
"""Messages DDS keeps for the recorder: 20 s of joint states."""
IMAGE_QUEUE_DEPTH = 120
MAX_BACKLOG_BYTES = 512 << 20
"""More than this waiting for the disk means that the disk is too slow for the camera."""
FRAME_MEMORY_S = 2.5
SETTLE_S = 0.2
"""After a stop request, how long late messages are still taken."""
EPISODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,119}")

IMAGE, JOINTS, ACTION, EXECUTED, STATE, STEP = "image", "joint_states", "action", "executed", "state", "step"


@dataclass(frozen=True)
class _Item:
    key: str
    data: bytes
    log_time: int
    publish_time: int
    logged: bool
    """Whether it came while an episode was recorded; others are only remembered."""


@dataclass
class _Recording:
    """One episode being recorded; belongs to the writing thread once it is started."""

    episode_id: str
    folder: Path
    log: McapLog
    writer: EpisodeWriter
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    stop_at: float | None = None
    final_frame_by: float = 0.0
    outcome: dict[str, Any] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""
    alive: Callable[[], bool] = lambda: True
    last_joint_stamp: int = 0
    max_joint_gap_ns: int = 0


class RecorderNode(ManagedNode):
    """See the module's text. Services recorder/start and recorder/stop; topic recorder/status."""

    def __init__(self) -> None:
        super().__init__("recorder")
        arm = self.station.arm.driver
        self._topics: dict[str, tuple[Any, str, str]] = {
            IMAGE: (Image, "sensor_msgs/msg/Image", self.station.camera.topic),
            JOINTS: (JointState, "sensor_msgs/msg/JointState", f"{arm}/joint_states"),
            ACTION: (BridgeAction, "gymnast_msgs/msg/BridgeAction", "arm/action"),
            EXECUTED: (ExecutedAction, "gymnast_msgs/msg/ExecutedAction", "arm/executed"),
            STATE: (ArmState, "gymnast_msgs/msg/ArmState", "arm/state"),
            STEP: (EpisodeStep, "gymnast_msgs/msg/EpisodeStep", "executor/step"),
        }
        self._subscriptions_by_key: dict[str, tuple[Any, ReliabilityPolicy, DurabilityPolicy]] = {}
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._backlog = 0
        self._lock = threading.Lock()
        self._recording: _Recording | None = None
        self._listening = False
        self._failure = ""
        self._failed_episode = ""
        self._frames: collections.deque[_Item] = collections.deque(maxlen=100)
        self._states: collections.deque[_Item] = collections.deque(maxlen=100)
        self._closing = threading.Event()
        self._status = self.create_publisher(DiagnosticStatus, STATUS_TOPIC, 10)
        self._start_service = self.create_service(StartRecording, "recorder/start", self._on_start)
        self._stop_service = self.create_service(
            StopRecording, "recorder/stop", self._on_stop, callback_group=ReentrantCallbackGroup()
        )  # it awaits the last messages, which must go on coming meanwhile
        self._liveness = Liveness(self)
        self._gate = GatedGroup(lambda: self._recording is not None)
        self._match_timer = self.create_timer(0.5, self._while_idle)
        self._stuck: set[str] = set()
        self._renew_timer = self.create_timer(0.02, self._renew_stuck)
        self._renew_timer.cancel()
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("recording", self._report)
        self._root = Path(self.station.recorder.folder).expanduser().resolve()
        self._writing = threading.Thread(target=self._write_loop, name="recorder", daemon=True)
        self._writing.start()
        self._status_thread = threading.Thread(target=self._status_loop, name="recorder status", daemon=True)
        self._status_thread.start()

    # Lifecycle

    def configure(self) -> None:
        """Check that episodes can be written, and finish what a predecessor left open."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"recorder.folder {self._root}: cannot be created: {error.strerror or error}") from error
        for _, type_name, _ in self._topics.values():
            message_definition(type_name)
        threading.Thread(target=self._repair, name="repair", daemon=True).start()

    def activate(self) -> None:
        self._failure = ""
        self._listening = True
        self._match_offers()

    def deactivate(self) -> None:
        self._listening = False
        self._end_recording("the recorder was deactivated")
        for subscription, _, _ in self._subscriptions_by_key.values():
            self.destroy_subscription(subscription)
        self._subscriptions_by_key.clear()

    def stop(self) -> None:
        self._end_recording("the recorder was stopped")
        self._closing.set()
        self._writing.join(timeout=2.0)

    # Subscriptions

    def _while_idle(self) -> None:
        self._match_offers()
        self._take_waiting()

    def _take_waiting(self) -> None:
        """What came since the last look, while nothing is recorded: the newest frames and states are kept."""
        if self._recording is not None:
            return
        for key, (subscription, _, _) in self._subscriptions_by_key.items():
            take = self._taker(key)
            for data, info in take_waiting(subscription):
                take(data, info)

    def _match_offers(self) -> None:
        """Subscribe with the reliability and durability each publisher offers, anew when that changes."""
        if not self._listening:
            return
        recording = self._recording is not None
        for key, (_, _, topic) in self._topics.items():
            offers = [info.qos_profile for info in self.get_publishers_info_by_topic(self._absolute(topic))]
            present = self._subscriptions_by_key.get(key)
            if present is not None and (recording or not offers):
                continue
            best_effort = any(offer.reliability == ReliabilityPolicy.BEST_EFFORT for offer in offers)
            reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
            if key == IMAGE and not offers:
                continue  # a camera's offer is not known beforehand
            durability = DurabilityPolicy.VOLATILE
            if present is not None:
                if present[1:] == (reliability, durability):
                    continue
                self.destroy_subscription(present[0])
            qos = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=IMAGE_QUEUE_DEPTH if key == IMAGE else QUEUE_DEPTH,
                reliability=reliability,
                durability=durability,
            )
            self._subscribe(key, qos)

    def _subscribe(self, key: str, qos: QoSProfile) -> None:
        kind, _, topic = self._topics[key]
        subscription = self.create_subscription(
            kind, topic, raw_callback(self._taker(key)), qos, callback_group=self._gate, raw=True
        )
        self._subscriptions_by_key[key] = (subscription, qos.reliability, qos.durability)

    def _renew_stuck(self) -> None:
        """A reader of the middleware was seen to hand out empty messages for ever: a new one takes its place."""
        self._renew_timer.cancel()
        for key in sorted(self._stuck):
            found = self._subscriptions_by_key.get(key)
            if found is not None:
                self.get_logger().warning(f"{self._topics[key][2]}: empty messages; subscribing anew")
                qos = found[0].qos_profile
                self.destroy_subscription(found[0])
                self._subscribe(key, qos)
        self._stuck.clear()

    def _absolute(self, topic: str) -> str:
        return topic if topic.startswith("/") else f"{self.get_namespace().rstrip('/')}/{topic}"

    def _taker(self, key: str) -> Any:
        def take(data: bytes, info: dict[str, Any] | None) -> None:
            recording = self._recording
            if len(data) < HEADER_BYTES:
                if key not in self._stuck:
                    self._stuck.add(key)
                    self._renew_timer.reset()
                return
            if recording is None and key not in (IMAGE, STATE):
                return
            log_time = time.time_ns()
            sent = int(info.get("source_timestamp", 0)) if info else 0
            item = _Item(key, data, log_time, sent or log_time, recording is not None)
            with self._lock:
                self._backlog += len(data)
            self._items.put(item)

        return take

    # Services

    def _on_start(self, request: StartRecording.Request, response: StartRecording.Response) -> Any:
        try:
            response.path = str(self._start(request))
            response.success = True
        except GymnastError as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"recording not started: {error}")
        return response

    def _start(self, request: StartRecording.Request) -> Path:
        if not self.is_active:
            raise StationError("the recorder is not active")
        if self._recording is not None:
            raise StationError(f"episode '{self._recording.episode_id}' is being recorded; stop it first")
        if not EPISODE_ID.fullmatch(request.episode_id):
            raise DataError(f"episode_id {request.episode_id[:40]!r}: allowed are 1 to 120 letters, digits and _.+-")
        normalise_instruction(request.instruction)
        metadata = _flat_object(request.metadata_json, "metadata_json")
        try:
            free_mb = shutil.disk_usage(self._root).free / 1e6
        except OSError as error:
            raise DataError(f"{self._root}: {error.strerror or error}") from error
        if free_mb < self.station.recorder.min_free_mb:
            raise DataError(
                f"{self._root}: {free_mb:.0f} MB free, recorder.min_free_mb is {self.station.recorder.min_free_mb}; "
                "free disk space or choose another recorder.folder"
            )
        if IMAGE not in self._subscriptions_by_key:
            self._match_offers()
        if IMAGE not in self._subscriptions_by_key:
            raise StationError(f"nobody publishes camera frames on {self.station.camera.topic}; is the camera running?")
        folder = self._root / request.episode_id
        facts: dict[str, Any] = {
            "station": self.station.name,
            "source": "station" if self.station.simulation else "robot",
        }
        facts.update(control_hz=self.station.arm.control_hz, started_ns=time.time_ns())
        writer = EpisodeWriter(folder, request.instruction, {**facts, **metadata})
        try:
            log = McapLog(folder / LOG_FOLDER, self.station.recorder.mcap_compression)
            for key, (_, type_name, topic) in self._topics.items():
                log.add_topic(self._log_topic(key, type_name, topic))
            log.flush()
        except DataError:
            writer.finish(complete=False)
            raise
        self._failure = ""
        self._take_waiting()  # what came before this moment is no part of the episode
        alive = self._liveness.watch("executor") if "executor" in self._liveness.states() else lambda: True
        self._recording = _Recording(request.episode_id, folder, log, writer, alive=alive)
        return folder

    def _log_topic(self, key: str, type_name: str, topic: str) -> Topic:
        reliability = self._subscriptions_by_key.get(key, (None, ReliabilityPolicy.RELIABLE, None))[1]
        return Topic(
            self._absolute(topic),
            type_name,
            message_definition(type_name),
            "best_effort" if reliability == ReliabilityPolicy.BEST_EFFORT else "reliable",
        )

    async def _on_stop(self, request: StopRecording.Request, response: StopRecording.Response) -> Any:
        recording = self._recording
        if recording is None or (request.episode_id and request.episode_id != recording.episode_id):
            known = f"'{recording.episode_id}' is being recorded" if recording else "nothing is being recorded"
            failed = f": {self._failure}" if self._failure and request.episode_id == self._failed_episode else ""
            response.success, response.message = False, f"episode '{request.episode_id}' is not; {known}{failed}"
            return response
        try:
            outcome = _flat_object(request.outcome_json, "outcome_json")
        except DataError as error:
            response.success, response.message = False, str(error)
            return response
        recording.outcome = outcome
        wanted = outcome.get("outcome") not in ("cancelled", "aborted")
        recording.final_frame_by = time.monotonic() + (1.5 if wanted else SETTLE_S)
        recording.stop_at = time.monotonic() + SETTLE_S
        end = time.monotonic() + 10.0
        while not recording.done.is_set() and time.monotonic() < end:
            await sleep(self, 0.02)
        response.success = recording.done.is_set() and not recording.error
        response.message = recording.error or ("" if recording.done.is_set() else "the disk did not answer in 10 s")
        response.path = str(recording.folder)
        response.steps = recording.writer.n_steps
        response.frames = recording.counts[IMAGE]
        response.joint_states = recording.counts[JOINTS]
        return response

    def _end_recording(self, reason: str) -> None:
        recording = self._recording
        if recording is None:
            return
        recording.outcome = {"outcome": "aborted", "reason": reason}
        recording.stop_at = recording.final_frame_by = time.monotonic()
        recording.done.wait(3.0)

    # Writing, all in one thread

    def _write_loop(self) -> None:
        assembler: _StepAssembler | None = None
        last_flush = time.monotonic()
        while not self._closing.is_set() or self._recording is not None:
            try:
                item: _Item | None = self._items.get(timeout=0.2 if self._recording is None else 0.02)
            except queue.Empty:
                item = None
            if item is not None:
                with self._lock:
                    self._backlog -= len(item.data)
                self._remember(item)
            recording = self._recording
            if recording is None:
                assembler = None
                continue
            try:
                if assembler is None or assembler.recording is not recording:
                    size = self.station.camera.observation_size
                    assembler = _StepAssembler(
                        recording, self._frames, self._states, size, 1.0 / self.station.arm.control_hz
                    )
                if self._backlog > MAX_BACKLOG_BYTES:
                    raise DataError(f"{recording.folder}: the disk is too slow for the camera; lower camera.rate_hz")
                if item is not None and item.logged:
                    self._write_item(recording, item)
                    assembler.take(item)
                    if item.key in (STEP, EXECUTED):
                        recording.log.flush()
                        last_flush = time.monotonic()
                if time.monotonic() - last_flush > 0.1:
                    recording.log.flush()
                    last_flush = time.monotonic()
                assembler.advance()
                now = time.monotonic()
                if recording.stop_at is None and not recording.alive():
                    recording.outcome = {"outcome": "aborted", "reason": "the executor went down"}
                    recording.stop_at = recording.final_frame_by = now
                    self.get_logger().error(f"recording of '{recording.episode_id}' closed: the executor went down")
                settled = recording.stop_at is not None and now >= recording.stop_at and self._items.empty()
                if settled and assembler.finish(now >= recording.final_frame_by):
                    self._close(recording)
            except Exception as error:
                self._fail(recording, error)

    def _remember(self, item: _Item) -> None:
        memory = {IMAGE: self._frames, STATE: self._states}.get(item.key)
        if memory is not None:
            memory.append(item)
            while memory[0].log_time < item.log_time - int(FRAME_MEMORY_S * 1e9):
                memory.popleft()

    def _write_item(self, recording: _Recording, item: _Item) -> None:
        recording.log.write(self._absolute(self._topics[item.key][2]), item.data, item.log_time, item.publish_time)
        recording.counts[item.key] += 1
        if item.key == JOINTS:
            stamp = header_stamp_ns(item.data)
            if recording.last_joint_stamp:
                recording.max_joint_gap_ns = max(recording.max_joint_gap_ns, stamp - recording.last_joint_stamp)
            recording.last_joint_stamp = stamp

    def _close(self, recording: _Recording) -> None:
        recording.log.close()
        outcome = dict(recording.outcome)
        success = outcome.pop("success", None)
        if outcome.get("outcome") == "":
            outcome.pop("outcome")
        recording.writer.finish(
            success=success if isinstance(success, bool) else None,
            complete=outcome.get("outcome") not in ("cancelled", "aborted"),
            log_frames=recording.counts[IMAGE],
            log_joint_states=recording.counts[JOINTS],
            log_max_joint_gap_s=round(recording.max_joint_gap_ns * 1e-9, 4),
            **outcome,
        )
        self._recording = None
        recording.done.set()

    def _fail(self, recording: _Recording, error: Exception) -> None:
        """One clear error; the episode is marked incomplete and everything written before stays readable."""
        text = str(error) if isinstance(error, GymnastError) else f"unexpected {type(error).__name__}: {error}"
        recording.error = self._failure = text
        self._failed_episode = recording.episode_id
        self.get_logger().error(f"recording of '{recording.episode_id}' ended: {text}")
        recording.log.abandon()
        with contextlib.suppress(GymnastError, OSError):  # then episode.json stays at "recording": cut short
            recording.writer.finish(complete=False, outcome="aborted", reason=text)
        self._recording = None
        recording.done.set()

    def _repair(self) -> None:
        for folder in list(iterate_episodes(self._root)):
            try:
                header = json.loads((folder / "episode.json").read_text(encoding="utf-8"))
                if header.get("status") == "recording" and self._recording is None:
                    self.get_logger().warning(f"repaired {recover_episode(folder)}")
            except (GymnastError, OSError, ValueError) as error:
                self.get_logger().warning(f"{folder}: left as it is: {error}")

    # Status

    def _status_loop(self) -> None:
        while not self._closing.wait(STATUS_PERIOD_S):
            recording = self._recording
            if recording is None and not self._failure:
                if not self._closing.wait(0.2):
                    self._publish_status(DiagnosticStatus.OK, "", "idle", {})
                continue
            if recording is None:
                self._publish_status(DiagnosticStatus.ERROR, self._failed_episode, self._failure, {})
            else:
                self._publish_status(DiagnosticStatus.OK, recording.episode_id, "recording", dict(recording.counts))

    def _publish_status(self, level: bytes, episode_id: str, message: str, values: dict[str, Any]) -> None:
        status = DiagnosticStatus(level=level, name="recorder", message=message, hardware_id=episode_id)
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        try:
            self._status.publish(status)
        except Exception:  # the context went down between the wait and here
            self._closing.set()

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        recording = self._recording
        values = {"backlog_mb": self._backlog / 1e6, **(dict(recording.counts) if recording else {})}
        if self._failure:
            return DiagnosticStatus.ERROR, self._failure, values
        return DiagnosticStatus.OK, f"recording {recording.episode_id}" if recording else "idle", values


class _StepAssembler:
    """Puts steps, what the arm made of them, frames and states together into the episode folder, in order.

    Messages of different topics arrive in any order: a step is written once the arm has answered it and a frame taken
    after it has come (so that the newest frame before it is known), or after a short wait.
    """

    WAIT_S = 0.3

    def __init__(
        self,
        recording: _Recording,
        frames: collections.deque[_Item],
        states: collections.deque[_Item],
        size: int,
        period_s: float,
    ) -> None:
        self.recording = recording
        self._frames = frames
        self._states = states
        self._size = size
        self._period_ns = int(period_s * 1e9)
        self._pending: collections.deque[tuple[EpisodeStep, float]] = collections.deque()
        self._executed: dict[int, ExecutedAction] = {}
        self._last_step_ns = 0
        self._finished = False

    def take(self, item: _Item) -> None:
        if item.key == STEP:
            step = deserialize_message(item.data, EpisodeStep)
            if step.episode_id == self.recording.episode_id:
                self._pending.append((step, time.monotonic()))
        elif item.key == EXECUTED:
            executed = deserialize_message(item.data, ExecutedAction)
            if executed.commanded.episode_id == self.recording.episode_id:
                self._executed[executed.commanded.step] = executed

    def advance(self, force: bool = False) -> None:
        while self._pending:
            step, arrived = self._pending[0]
            stamp = _nanoseconds(step.header.stamp)
            ready = (
                step.step in self._executed and bool(self._frames) and header_stamp_ns(self._frames[-1].data) > stamp
            )
            if not (ready or force or time.monotonic() - arrived > self.WAIT_S):
                return
            self._pending.popleft()
            self._observe(stamp)
            executed = self._executed.pop(step.step, None)
            action = _action_vector(step.action)
            self.recording.writer.add_step(
                action,
                [np.nan] * 7 if executed is None else _action_vector(executed),
                [] if executed is None else list(executed.safety_events),
                accepted=None if executed is None else bool(executed.accepted),
                stamp_ns=stamp,
                policy_frame_ns=_nanoseconds(step.frame_stamp),
                policy_latency=round(float(step.policy_latency), 4),
            )
            self._last_step_ns = stamp

    def finish(self, force: bool) -> bool:
        """Write what came of the last action; False while its frame has not come yet."""
        if self._finished:
            return True
        self.advance(force=True)
        if self.recording.writer.n_steps:
            due = self._last_step_ns + self._period_ns
            arrived = bool(self._frames) and header_stamp_ns(self._frames[-1].data) >= due
            if not (arrived or force):
                return False
            self._observe(due, first_after=arrived)
        self._finished = True
        return True

    def _observe(self, stamp: int, first_after: bool = False) -> None:
        """Write the newest frame not after `stamp` (or the first one after it) with the state nearest to it."""
        frames = list(self._frames)
        if not frames:
            raise DataError(f"{self.recording.folder}: no camera frame arrived; is the camera running?")
        stamps = [header_stamp_ns(item.data) for item in frames]
        chosen = _choose(stamps, stamp, first_after)
        image = deserialize_message(frames[chosen].data, Image)
        frame = resize_frame(image_to_frame(image, "camera frame"), self._size)
        state = None
        if self._states:
            states = list(self._states)
            times = [header_stamp_ns(item.data) for item in states]
            nearest = min(range(len(times)), key=lambda index: abs(times[index] - stamps[chosen]))
            message = deserialize_message(states[nearest].data, ArmState)
            state = [*message.bridge_pose, message.gripper]
        self.recording.writer.add_observation(frame, state, stamps[chosen])


def _choose(stamps: Sequence[int], stamp: int, first_after: bool) -> int:
    if first_after:
        later = [index for index, value in enumerate(stamps) if value >= stamp]
        return later[0] if later else len(stamps) - 1
    earlier = [index for index, value in enumerate(stamps) if value <= stamp]
    return earlier[-1] if earlier else 0


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a serialised message that begins with a std_msgs/Header (CDR, either byte order), nanoseconds."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * 1_000_000_000 + nanoseconds


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _action_vector(message: Any) -> list[float]:
    return [*map(float, message.translation), *map(float, message.rotation), float(message.gripper)]


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _flat_object(text: str, name: str) -> dict[str, Any]:
    """A flat JSON object; empty text is an empty one. Raises: DataError."""
    if not text:
        return {}
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict) or any(isinstance(inner, (dict, list)) for inner in value.values()):
        raise DataError(f"{name}: needed a flat JSON object")
    return value


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `recorder`."""
    return run_node(RecorderNode, args)

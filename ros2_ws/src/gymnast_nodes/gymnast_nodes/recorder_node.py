"""The recorder: one folder for each episode, with every message in an MCAP log and every step in the episode format.

Topics are taken as serialised bytes (recorded_topics) and handed to a writing thread (recording_thread) at once.
Episodes its predecessor left open are repaired when it is configured.

When the executor dies in mid-episode, the recording is closed as aborted.

While it records it says so on `recorder/status` every 50 ms; the executor sends no action that nobody would log.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from gymnast_msgs.srv import StartRecording, StopRecording
from rclpy.callback_groups import ReentrantCallbackGroup

from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.mcap_log import McapLog
from gymnast_core.data.outcome import ended_early
from gymnast_core.data.recover import LOG_FOLDER, needs_recovery, recordings_below, recover_episode
from gymnast_core.errors import DataError, GymnastError, StationError
from gymnast_core.files import user_path, writable_folder
from gymnast_core.plain_json import flat_object
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_nodes.calls import sleep
from gymnast_nodes.lifecycle import Diagnostics, ManagedNode
from gymnast_nodes.liveness import Liveness
from gymnast_nodes.recorded_topics import RecordedTopics
from gymnast_nodes.recording_thread import RecordingThread
from gymnast_nodes.running import run_node
from gymnast_nodes.step_assembler import IMAGE, JOINTS, Recording, StepAssembler

STATUS_TOPIC = "recorder/status"
STATUS_PERIOD_S = 0.05
SETTLE_S = 0.2
"""After a stop request, how long late messages are still taken."""
CLOSING_S = 10.0
"""How long the answer to a stop request waits for the disk."""
EPISODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,119}")


class RecorderNode(ManagedNode):
    """See the module's text. Services recorder/start and recorder/stop; topic recorder/status."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._topics = RecordedTopics(
            self, lambda key, data, info: self._thread.put(key, data, info), lambda: self._thread.recording is not None
        )
        self._thread = RecordingThread(self.station, self._topics.names, self.get_logger())
        self._status = self.create_publisher(DiagnosticStatus, STATUS_TOPIC, 10)
        self._start_service = self.create_service(StartRecording, "recorder/start", self._on_start)
        self._stop_service = self.create_service(
            StopRecording, "recorder/stop", self._on_stop, callback_group=ReentrantCallbackGroup()
        )  # it awaits the last messages, which must go on coming meanwhile
        self._liveness = Liveness(self)
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("recording", self._report)
        self._root = user_path(self.station.recorder.folder, "recorder.folder").resolve()
        self._closing = threading.Event()
        self._status_thread = threading.Thread(target=self._status_loop, name="recorder status", daemon=True)
        self._status_thread.start()

    # Lifecycle

    def configure(self) -> None:
        """Check that episodes can be written, and finish what a predecessor left open."""
        writable_folder(self._root, "recorder.folder")
        self._topics.check_definitions()
        threading.Thread(target=self._repair, name="repair", daemon=True).start()

    def activate(self) -> None:
        self._thread.forget()
        self._topics.open()

    def deactivate(self) -> None:
        self._thread.abort("the recorder was deactivated")
        self._topics.close()

    def stop(self) -> None:
        self._thread.abort("the recorder was stopped")
        self._closing.set()
        self._thread.end()

    def _repair(self) -> None:
        for folder in recordings_below(self._root):
            recording = self._thread.recording
            if recording is not None and folder == recording.folder:
                continue
            try:
                if needs_recovery(folder):
                    self.get_logger().warning(f"repaired {recover_episode(folder)}")
            except (GymnastError, OSError) as error:
                self.get_logger().warning(f"{folder}: left as it is: {error}")
            except Exception as error:  # whatever one episode holds, the others are repaired
                self.get_logger().error(f"{folder}: left as it is: unexpected {type(error).__name__}: {error}")

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
        """The folder of the episode that is recorded from now on. Raises: StationError, DataError."""
        if not self.is_active:
            raise StationError("the recorder is not active")
        if self._thread.recording is not None:
            raise StationError(f"episode '{self._thread.recording.episode_id}' is being recorded; stop it first")
        if not EPISODE_ID.fullmatch(request.episode_id):
            raise DataError(f"episode_id {request.episode_id[:40]!r}: allowed are 1 to 120 letters, digits and _.+-")
        normalise_instruction(request.instruction)
        metadata = flat_object(request.metadata_json, "metadata_json")
        self._check_disk()
        if not self._topics.camera_is_there():
            raise StationError(f"nobody publishes camera frames on {self.station.camera.topic}; is the camera running?")
        if silent := self._topics.silent():
            self.get_logger().warning(f"not in the log of '{request.episode_id}': nobody publishes {', '.join(silent)}")
        folder = self._root / request.episode_id
        facts: dict[str, Any] = {
            "station": self.station.name,
            "source": "station" if self.station.simulation else "robot",
            "station_file": str(self.config_path.resolve()),
            "control_hz": self.station.arm.control_hz,
            "started_ns": time.time_ns(),
        }
        writer = EpisodeWriter(folder, request.instruction, {**facts, **metadata})
        try:
            log = McapLog(folder / LOG_FOLDER, self.station.recorder.mcap_compression)
            for topic in self._topics.log_topics():
                log.add_topic(topic)
            log.flush()
        except DataError:
            writer.finish(complete=False)
            raise
        self._thread.forget()
        self._topics.take_waiting()  # what came before this moment is no part of the episode
        alive = self._liveness.watch("executor") if "executor" in self._liveness.states() else lambda: True
        task = self._task_of(request.instruction, metadata)
        self._thread.begin(Recording(request.episode_id, folder, log, writer, task, alive=alive))
        return folder

    def _task_of(self, instruction: str, metadata: Mapping[str, Any]) -> str:
        """The station's task that an episode is of, which its truth is asked for; empty where it is none."""
        named = str(metadata.get("task") or "")
        return named or next((n for n, t in self.station.tasks.items() if t.instruction == instruction.strip()), "")

    def _check_disk(self) -> None:
        """Raises: DataError when it is too full for an episode."""
        try:
            free_mb = shutil.disk_usage(self._root).free / 1e6
        except OSError as error:
            raise DataError(f"recorder.folder {self._root}: {error.strerror or error}") from error
        if free_mb < self.station.recorder.min_free_mb:
            raise DataError(
                f"{self._root}: {free_mb:.0f} MB free, recorder.min_free_mb is {self.station.recorder.min_free_mb}; "
                "free disk space or choose another recorder.folder"
            )

    async def _on_stop(self, request: StopRecording.Request, response: StopRecording.Response) -> Any:
        recording = self._thread.recording
        if recording is None or (request.episode_id and request.episode_id != recording.episode_id):
            known = f"'{recording.episode_id}' is being recorded" if recording else "nothing is being recorded"
            failure = self._thread.failure if request.episode_id == self._thread.failed_episode else ""
            failed = f": {failure}" if failure else ""
            response.success, response.message = False, f"episode '{request.episode_id}' is not; {known}{failed}"
            return response
        try:
            outcome = flat_object(request.outcome_json, "outcome_json")
        except DataError as error:
            response.success, response.message = False, str(error)
            return response
        recording.outcome = outcome
        wanted = not ended_early(outcome.get("outcome"))
        recording.final_frame_by = time.monotonic() + (1.5 if wanted else SETTLE_S)
        recording.answers_by = time.monotonic() + (StepAssembler.ANSWER_WAIT_S if wanted else SETTLE_S)
        recording.stop_at = time.monotonic() + SETTLE_S
        end = time.monotonic() + CLOSING_S
        while not recording.done.is_set() and time.monotonic() < end:
            await sleep(self, 0.02)
        response.success = recording.done.is_set() and not recording.error
        late = "" if recording.done.is_set() else f"the disk did not answer in {CLOSING_S:g} s"
        response.message = recording.error or late or recording.lacks
        response.path = str(recording.folder)
        response.steps = recording.writer.n_steps
        response.frames = recording.counts[IMAGE]
        response.joint_states = recording.counts[JOINTS]
        return response

    # Status

    def _status_loop(self) -> None:
        while not self._closing.wait(STATUS_PERIOD_S):
            recording = self._thread.recording
            if recording is None and not self._thread.failure:
                if not self._closing.wait(0.2):
                    self._publish_status(DiagnosticStatus.OK, "", "idle", {})
                continue
            if recording is None:
                self._publish_status(DiagnosticStatus.ERROR, self._thread.failed_episode, self._thread.failure, {})
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
        recording = self._thread.recording
        values = {"backlog_mb": self._thread.backlog / 1e6, **(dict(recording.counts) if recording else {})}
        if self._thread.failure:
            return DiagnosticStatus.ERROR, self._thread.failure, values
        if recording is not None and self._thread.complaint:
            return DiagnosticStatus.WARN, f"{self.station.camera.topic}: {self._thread.complaint}", values
        return DiagnosticStatus.OK, f"recording {recording.episode_id}" if recording else "idle", values


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `recorder`."""
    return run_node(RecorderNode, args)

"""The thread that writes an episode: its log at once, its steps when they are whole, its end when all has come.

Messages are handed over at once, so that nothing is lost while the disk is busy, and flushed at each step, so that a
killed recorder leaves a log that ends with the last step.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from gymnast_core.config import StationConfig
from gymnast_core.data.outcome import ABORTED, OUTCOMES, ended_early
from gymnast_core.errors import DataError, GymnastError
from gymnast_nodes.messages import picture_type
from gymnast_nodes.step_assembler import (
    EXECUTED,
    IMAGE,
    JOINTS,
    STATE,
    STEP,
    TRUTH,
    Clocks,
    Item,
    Recording,
    StepAssembler,
    header_stamp_ns,
)

MAX_BACKLOG_BYTES = 512 << 20
"""More than this waiting for the disk means that the disk is too slow for the camera."""
FRAME_MEMORY_S = 2.5
FLUSH_S = 0.1


class RecordingThread:
    """Takes messages from any thread; writes those that come between `begin` and the end of a recording.

    station: its station. names: the topics' names in the log, by key. logger: of the node.
    """

    def __init__(self, station: StationConfig, names: Mapping[str, str], logger: Any) -> None:
        self._station = station
        self._names = names
        self._logger = logger
        self.recording: Recording | None = None
        self.failure = ""
        """What ended the last recording, empty when nothing did, or another one was begun."""
        self.failed_episode = ""
        self.backlog = 0
        """Bytes that wait for the disk."""
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._frames: collections.deque[Item] = collections.deque(maxlen=100)
        self._states: collections.deque[Item] = collections.deque(maxlen=100)
        self._truths: collections.deque[Item] = collections.deque(maxlen=100)
        self._clocks = Clocks(station.camera.max_age_s)
        self._assembler: StepAssembler | None = None
        self._last_flush = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def complaint(self) -> str:
        """What is wrong with the stamps of the camera's pictures; empty when nothing is."""
        return self._clocks.image.complaint

    def put(self, key: str, data: bytes, info: dict[str, Any] | None) -> None:
        """A message came: `data` as serialised, `info` as the middleware has it."""
        recording = self.recording
        if recording is None and key not in (IMAGE, STATE, TRUTH):
            return
        log_time = time.time_ns() if recording is None else recording.wall_ns + time.monotonic_ns()
        sent = int(info.get("source_timestamp", 0)) if info else 0
        moment = self._clocks.place(key, data, int(info.get("received_timestamp", 0)) if info else 0)
        item = Item(key, data, log_time, sent or log_time, recording is not None, moment)
        with self._lock:
            self.backlog += len(data)
        self._items.put(item)

    def forget(self) -> None:
        """What failed before, and what was wrong with stamps before, does not count for the next recording."""
        self.failure = ""
        self._clocks = Clocks(self._station.camera.max_age_s)

    def begin(self, recording: Recording) -> None:
        """Write what comes from now on."""
        self.recording = recording

    def abort(self, reason: str) -> None:
        """End the recording under way, if there is one, and wait for that."""
        recording = self.recording
        if recording is not None:
            _abort(recording, reason)
            recording.done.wait(3.0)

    def end(self) -> None:
        """End the thread, after the recording under way was closed."""
        self._closing.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._closing.is_set() or self.recording is not None:
            item = self._next()
            recording = self.recording
            if recording is None:
                self._assembler = None
                continue
            try:
                self._advance(recording, item)
            except Exception as error:
                self._fail(recording, error)

    def _next(self) -> Item | None:
        """The next message, remembered; None when none came for a while."""
        try:
            item = self._items.get(timeout=0.2 if self.recording is None else 0.02)
        except queue.Empty:
            return None
        with self._lock:
            self.backlog -= len(item.data)
        memory = {IMAGE: self._frames, STATE: self._states, TRUTH: self._truths}.get(item.key)
        if memory is not None:
            memory.append(item)
            while memory[0].arrived < item.arrived - FRAME_MEMORY_S:
                memory.popleft()
        return item

    def _advance(self, recording: Recording, item: Item | None) -> None:
        """Write what can be written, and close the recording once it has ended and all of it has come."""
        assembler = self._assembler_of(recording)
        if self.backlog > MAX_BACKLOG_BYTES:
            raise DataError(f"{recording.folder}: the disk is too slow for the camera; lower camera.rate_hz")
        if item is not None and item.logged:
            self._write(recording, item)
            assembler.take(item)
        step_came = item is not None and item.logged and item.key in (STEP, EXECUTED)
        if step_came or time.monotonic() - self._last_flush > FLUSH_S:
            recording.log.flush()
            self._last_flush = time.monotonic()
        assembler.advance()
        if recording.stop_at is None and not recording.alive():
            _abort(recording, "the executor went down")
            self._logger.error(f"recording of '{recording.episode_id}' closed: the executor went down")
        now = time.monotonic()
        settled = recording.stop_at is not None and now >= recording.stop_at and self._items.empty()
        if settled and assembler.finish(now >= recording.final_frame_by, now >= recording.answers_by):
            self._close(recording)

    def _assembler_of(self, recording: Recording) -> StepAssembler:
        if self._assembler is None or self._assembler.recording is not recording:
            camera, period = self._station.camera, 1.0 / self._station.arm.control_hz
            self._assembler = StepAssembler(
                recording, self._frames, self._states, self._truths, camera.observation_size, period, camera.max_age_s,
                picture_type(camera),
            )  # fmt: skip
        return self._assembler

    def _write(self, recording: Recording, item: Item) -> None:
        recording.log.write(self._names[item.key], item.data, item.log_time, item.publish_time)
        recording.counts[item.key] += 1
        if item.key == JOINTS:
            stamp = header_stamp_ns(item.data)
            if recording.last_joint_stamp:
                recording.max_joint_gap_ns = max(recording.max_joint_gap_ns, stamp - recording.last_joint_stamp)
            recording.last_joint_stamp = stamp

    def _close(self, recording: Recording) -> None:
        recording.log.close()
        outcome = dict(recording.outcome)
        success = outcome.pop("success", None)
        if outcome.get("outcome") == "":
            outcome.pop("outcome")
        if recording.unanswered:
            outcome["log_unanswered"] = recording.unanswered
        if recording.lacks:
            outcome["log_lacks"] = recording.lacks
            self._logger.error(f"recording of '{recording.episode_id}': {recording.lacks}")
        if self.complaint:
            outcome["frame_stamps"] = self.complaint
            self._logger.warning(f"{self._station.camera.topic}: {self.complaint}")
        recording.writer.finish(
            success=success if isinstance(success, bool) else None,
            complete=not ended_early(outcome.get("outcome")) and not recording.lacks,
            log_frames=recording.counts[IMAGE],
            log_joint_states=recording.counts[JOINTS],
            log_max_joint_gap_s=round(recording.max_joint_gap_ns * 1e-9, 4),
            **outcome,
        )
        self.recording = None
        recording.done.set()

    def _fail(self, recording: Recording, error: Exception) -> None:
        """One clear error; the episode is marked incomplete and everything written before stays readable."""
        text = str(error) if isinstance(error, GymnastError) else f"unexpected {type(error).__name__}: {error}"
        recording.error = self.failure = text
        self.failed_episode = recording.episode_id
        self._logger.error(f"recording of '{recording.episode_id}' ended: {text}")
        recording.log.abandon()
        with contextlib.suppress(GymnastError, OSError):  # then episode.json stays at "recording": cut short
            recording.writer.finish(complete=False, outcome=OUTCOMES[ABORTED], reason=text)
        self.recording = None
        recording.done.set()


def _abort(recording: Recording, reason: str) -> None:
    recording.outcome = {"outcome": OUTCOMES[ABORTED], "reason": reason}
    recording.stop_at = recording.final_frame_by = time.monotonic()

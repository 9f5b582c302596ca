"""Puts the messages of one episode together into its folder: each step with its picture, its state and its answer."""

from __future__ import annotations

import collections
import math
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from gymnast_msgs.msg import ArmState, EpisodeStep, ExecutedAction
from rclpy.serialization import deserialize_message

from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.mcap_log import McapLog
from gymnast_core.errors import DataError
from gymnast_core.robot.guard import FRESH_S
from gymnast_nodes.clocks import WALL
from gymnast_nodes.felt import Felt
from gymnast_nodes.frame_time import Moment, StampClock
from gymnast_nodes.messages import Picture, image_to_frame
from gymnast_nodes.truth import truth_of

IMAGE, JOINTS, ACTION, EXECUTED, STATE, STEP = "image", "joint_states", "action", "executed", "state", "step"
TRUTH = "truth"
LATE_STEP_S = 5.0
"""A step's stamp may be this old when it comes: a busy machine."""


@dataclass(frozen=True)
class Item:
    """One message, as it came.

    log_time, publish_time: nanoseconds since the epoch.
    logged: whether it came while an episode was recorded; others are only remembered.
    moment: when it was taken, by its stamp or its arrival; of pictures, states and steps only.
    """

    key: str
    data: bytes
    log_time: int
    publish_time: int
    logged: bool
    moment: Moment | None = None

    @property
    def taken(self) -> float:
        """Seconds of the steady clock."""
        return self.moment.taken if self.moment else 0.0

    @property
    def arrived(self) -> float:
        """Seconds of the steady clock."""
        return self.moment.arrived if self.moment else 0.0

    @property
    def stamp_ns(self) -> int:
        """When it was taken, nanoseconds since the epoch: its own stamp where that is believed."""
        return header_stamp_ns(self.data) if self.moment and self.moment.believed else self.log_time


class Clocks:
    """Places the stamps of pictures, states, truths and steps on the steady clock.

    max_age_s: a picture, state or truth older than this when it comes is not taken at its stamp's word.
    """

    def __init__(self, max_age_s: float) -> None:
        self.image, state, truth, step = (StampClock(most) for most in (*[max_age_s] * 3, LATE_STEP_S))
        self._clocks = {IMAGE: self.image, STATE: state, TRUTH: truth, STEP: step}

    def place(self, key: str, data: bytes, received_ns: int) -> Moment | None:
        """received_ns: when the middleware had it, by the wall clock; 0 where it does not tell."""
        clock = self._clocks.get(key)
        if clock is None:
            return None
        now = time.monotonic()
        waited = WALL.age(received_ns * 1e-9) if received_ns else 0.0
        return clock.place(header_stamp_ns(data) * 1e-9, now - waited if 0.0 < waited < LATE_STEP_S else now)


@dataclass
class Recording:
    """One episode being recorded; belongs to the writing thread once it is started. task: of the station, or empty."""

    episode_id: str
    folder: Path
    log: McapLog
    writer: EpisodeWriter
    task: str = ""
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    stop_at: float | None = None
    final_frame_by: float = 0.0
    answers_by: float = 0.0
    outcome: dict[str, Any] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""
    alive: Callable[[], bool] = lambda: True
    wall_ns: int = field(default_factory=lambda: time.time_ns() - time.monotonic_ns())
    """Wall clock minus steady clock when the episode began: its log runs evenly, however the wall clock is set."""
    last_joint_stamp: int = 0
    max_joint_gap_ns: int = 0
    unanswered: int = 0
    """Steps without an answer of the arm."""
    ends_unseen: bool = False
    """No picture came after the last action."""

    @property
    def lacks(self) -> str:
        """What is missing in it, in one line; empty when nothing is."""
        parts = []
        if self.unanswered:
            parts.append(f"{self.unanswered} of {self.writer.n_steps} steps have no answer of the arm in the log")
        if self.ends_unseen:
            parts.append("no picture was taken after the last action, so that its step is not counted")
        return "; ".join(parts)


@dataclass
class _Pending:
    """A step that is not written yet. picture: frame, state, stamp and truth of it, once they are chosen."""

    step: EpisodeStep
    item: Item
    since: float
    picture: tuple[np.ndarray, list[float] | None, int, bool | None] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """By what its answer is found."""
        return self.step.action.commander, self.step.step


class StepAssembler:
    """Puts steps, what the arm made of them, frames and states together into the episode folder, in order.

    Messages of different topics arrive in any order. A step's picture is chosen once a later one has come, or after a
    short wait: the newest that was taken, and had arrived, before the action was sent, whatever its stamp says. It is
    written once the arm has answered the step, or after a longer wait; the step itself follows when the next one's
    action was sent, since only then is known what it cost the arm.

    max_age_s: a picture that is older than twice this when the action is sent does not belong to it. kind: the type of
    the pictures' messages.

    Raises: DataError when a step has no picture, or one before it did not reach the recorder.
    """

    PICTURE_WAIT_S = 0.3
    ANSWER_WAIT_S = 4.0
    """Longer than Fast DDS takes to send again what was lost (its heartbeats come every 3 s)."""

    def __init__(
        self,
        recording: Recording,
        frames: collections.deque[Item],
        states: collections.deque[Item],
        truths: collections.deque[Item],
        size: int,
        period_s: float,
        max_age_s: float,
        kind: type[Picture],
    ) -> None:
        self.recording = recording
        self._kind = kind
        self._frames = frames
        self._states = states
        self._truths = truths
        self._size = size
        self._period = period_s
        self._oldest = 2.0 * max_age_s
        self._pending: collections.deque[_Pending] = collections.deque()
        self._executed: dict[tuple[str, int], ExecutedAction] = {}
        """By commander and step: an action of somebody else under this episode's name does not belong to it."""
        self._next_step = 0
        self._open: _Pending | None = None
        """The last step whose picture is written, and which is not."""
        self._felt = Felt()
        self._last_action = 0.0
        self._finished = False

    def take(self, item: Item) -> None:
        if item.key == STEP:
            step = deserialize_message(item.data, EpisodeStep)
            if step.episode_id != self.recording.episode_id:
                return
            if step.step > self._next_step:
                raise DataError(
                    f"{self.recording.folder}: step {self._next_step} did not reach the recorder, step {step.step} did"
                )
            self._next_step = step.step + 1
            self._pending.append(_Pending(step, item, time.monotonic()))
        elif item.key == EXECUTED:
            executed = deserialize_message(item.data, ExecutedAction)
            if executed.commanded.episode_id == self.recording.episode_id:
                self._executed[executed.commanded.commander, executed.commanded.step] = executed
        elif item.key == STATE:
            self._felt.take(deserialize_message(item.data, ArmState), item.taken)

    def advance(self, force: bool = False) -> None:
        """Choose the pictures that can be chosen and write the steps that can be written; force: all of them."""
        now = time.monotonic()
        for pending in self._pending:
            if pending.picture is None:
                later = bool(self._frames) and self._frames[-1].arrived > pending.item.taken
                if not (later or force or now - pending.since > self.PICTURE_WAIT_S):
                    break
                pending.picture = self._read(self._before(pending))
        while self._pending and self._pending[0].picture is not None:
            first = self._pending[0]
            if not (first.key in self._executed or force or now - first.since > self.ANSWER_WAIT_S):
                return
            self._pending.popleft()
            self._write(first)

    def finish(self, force: bool, answers: bool) -> bool:
        """Write what came of the last action; False while its frame, or an answer, has not come yet.

        force: no frame is waited for any longer. answers: nor is an answer.
        """
        if self._finished:
            return True
        self.advance()
        if self._pending and not (answers and force):
            return False
        self.advance(force=True)
        if self._open is not None or self.recording.writer.n_steps:
            due = self._last_action + self._period
            after = [item for item in self._frames if item.taken >= due]
            if not (after or force):
                return False
            seen = [item for item in self._frames if item.taken > self._last_action]
            if after or seen:
                chosen = min(after, key=_taken) if after else max(seen, key=_taken)
                if self._truths and self._truth_near(chosen) is None and not force:
                    return False
            self._write_open(math.inf)
            if after or seen:
                self.recording.writer.add_observation(*self._read(chosen))
            else:
                self.recording.ends_unseen = True
        self._finished = True
        return True

    def _write(self, pending: _Pending) -> None:
        """The step before it, and its own picture."""
        assert pending.picture is not None
        self._write_open(pending.item.taken)
        self.recording.writer.add_observation(*pending.picture)
        self._open, self._last_action = pending, pending.item.taken

    def _write_open(self, until: float) -> None:
        """The step whose picture was written last, with what it cost the arm until the next one's action was sent."""
        holds, load = self._felt.until(until)  # before the first step: of no step
        if self._open is None:
            return
        pending, self._open = self._open, None
        step = pending.step
        executed = self._executed.pop(pending.key, None)
        self.recording.unanswered += executed is None
        self.recording.writer.add_step(
            _action_vector(step.action),
            [np.nan] * 7 if executed is None else _action_vector(executed),
            [] if executed is None else list(executed.safety_events),
            holds,
            load,
            accepted=None if executed is None else bool(executed.accepted),
            stamp_ns=_nanoseconds(step.header.stamp),
            policy_frame_ns=_nanoseconds(step.frame_stamp),
            policy_latency=round(float(step.policy_latency), 4),
        )

    def _before(self, pending: _Pending) -> Item:
        """The newest picture that is certain to be taken before a step's action. Raises: DataError."""
        sent, looked_at = pending.item.taken, _nanoseconds(pending.step.frame_stamp)
        before = [
            item for item in self._frames if item.taken <= sent and (item.arrived <= sent or item.stamp_ns == looked_at)
        ]
        where = f"{self.recording.folder}: step {pending.step.step}"
        if not before:
            raise DataError(f"{where}: no camera frame came before its action; is the camera running?")
        newest = max(before, key=_taken)
        if sent - newest.taken > self._oldest:
            raise DataError(
                f"{where}: the newest camera frame was {sent - newest.taken:.1f} s old when its action was sent, "
                f"allowed are {self._oldest:g} s (twice camera.max_age_s)"
            )
        return newest

    def _read(self, item: Item) -> tuple[np.ndarray, list[float] | None, int, bool | None]:
        """A picture in the episode's size, with the state nearest to it, its stamp and the station's truth of it."""
        image = deserialize_message(item.data, self._kind)
        frame = resize_frame(image_to_frame(image, "camera frame"), self._size)
        state = None
        known = [one for one in self._states if one.moment is not None and one.moment.late <= FRESH_S]
        if known:  # an older one says where the arm was seen last, not where it is
            nearest = min(known, key=lambda one: abs(one.taken - item.taken))
            message = deserialize_message(nearest.data, ArmState)
            state = [*message.bridge_pose, message.gripper]
        truth = self._truth_near(item)
        done = truth_of(deserialize_message(truth.data, DiagnosticArray), self.recording.task) if truth else None
        return frame, state, item.stamp_ns, done

    def _truth_near(self, item: Item) -> Item | None:
        """The station's truth of the moment of a picture, at most half a control step away; None where it has none."""
        nearest = min(self._truths, key=lambda one: abs(one.taken - item.taken), default=None)
        return nearest if nearest and abs(nearest.taken - item.taken) <= self._period / 2 else None


def _taken(item: Item) -> float:
    return item.taken


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a serialised message that begins with a std_msgs/Header (CDR, either byte order), nanoseconds."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * 1_000_000_000 + nanoseconds


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _action_vector(message: Any) -> list[float]:
    return [*map(float, message.translation), *map(float, message.rotation), float(message.gripper)]

"""The one episode type, from the camera to the training batch, and its folder on disk.

An episode folder holds

    episode.json      what it is: instruction, metadata, outcome; written at the start (status "recording") and,
                      atomically, at the end (status "complete" or "incomplete")
    start.json        the same as known at the start; `gymnast data recover` reads it where episode.json is damaged
    steps.jsonl       one line per step, appended and flushed at once, so that a crash loses at most the line in hand
    frames/NNNNNN.png frame k is what was seen before action k; the last one is what came of the last action

so that what was logged up to a crash of the process is readable without any repair. A finished episode survives a power
cut, too: everything in it is on the disk before its status says "complete". After a power cut during an episode
`gymnast data recover` cuts it to the steps that reached the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.frames import check_frame, encode_image, read_image, resize_frame
from gymnast_core.data.labels import BY_PERSON, read_label
from gymnast_core.errors import DataError, DocumentError, TwiceError
from gymnast_core.files import (
    LONGEST_LINES,
    files_below,
    finite_or_none,
    is_number,
    read_whole,
    sync,
    sync_file,
    sync_folder,
    write_bytes,
    write_json,
)
from gymnast_core.locks import try_lock
from gymnast_core.plain_json import parse_json
from gymnast_core.progress import check_stop

FORMAT_VERSION = 1
HEADER_FILE, START_FILE, STEPS_FILE, FRAMES_FOLDER = "episode.json", "start.json", "steps.jsonl", "frames"
ACTION_DIM = 7
STATE_DIM = 7


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    instruction: the one that the policy got.
    frames: (T + 1, H, W, 3) uint8 RGB; frame k precedes action k.
    actions: (T, 7) float32, commanded, Bridge convention: metres, radians, base axes; gripper absolute, 1 = open.
    executed: (T, 7) float32, the same after the safety envelope; NaN where the arm never answered.
    states: (T + 1, 7) float32: measured end effector x, y, z (metres, base frame), roll, pitch, yaw (radians, Bridge
        rotation frame: zero when the gripper points straight down), gripper opening 0 .. 1; NaN where not measured.
    stamps: (T + 1,) int64, nanoseconds since the epoch (or since the start in simulation).
    success: outcome by the best authority there was (metadata "outcome_by"): a person's label (`data/labels.py`), the
        station, a judge. None if nobody judged.
    complete: False when the recording was cut short.
    metadata: flat facts: task, station, source ("robot", "station" or "imagination"), policy, adapter, seed, ...
    """

    instruction: str
    frames: np.ndarray
    actions: np.ndarray
    executed: np.ndarray
    states: np.ndarray
    stamps: np.ndarray
    success: bool | None = None
    complete: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of steps T."""
        return len(self.actions)

    @property
    def answered(self) -> int:
        """Steps before the first that the arm never answered: what moved it after that nobody knows, so training a
        world model and replaying in one both end there."""
        unanswered = np.flatnonzero(~np.isfinite(self.executed).all(axis=1))
        return int(unanswered[0]) if len(unanswered) else self.length

    def until(self, steps: int) -> Episode:
        """Its first `steps` steps."""
        return replace(
            self,
            frames=self.frames[: steps + 1],
            actions=self.actions[:steps],
            executed=self.executed[:steps],
            states=self.states[: steps + 1],
            stamps=self.stamps[: steps + 1],
        )

    def position(self, step: int) -> list[float] | None:
        """Measured end effector x, y, z (metres, base frame) before action `step`; None where it was not measured."""
        position = self.states[step, :3]
        return position.tolist() if np.isfinite(position).all() else None


def check_actions(actions: np.ndarray, name: str = "actions") -> np.ndarray:
    """Return `actions` as (T, 7) float32.

    Raises: DataError when the shape differs or a value is not finite (it names the step and dimension).
    """
    array = np.asarray(actions, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != ACTION_DIM:
        raise DataError(f"{name}: found shape {array.shape}, needed (steps, {ACTION_DIM})")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        step, dimension = bad[0]
        raise DataError(f"{name}: found {array[step, dimension]} at step {step}, dimension {dimension}; needed finite")
    return array


class EpisodeWriter:
    """Writes one episode folder while it happens.

    Call `add_observation` once, then `add_step` and `add_observation` in turn, then `finish`. Leaving a `with` block
    without `finish` marks the episode incomplete; what was written stays readable.

    Raises: DataError when the folder exists already or the disk is full.
    """

    def __init__(self, folder: str | os.PathLike[str], instruction: str, metadata: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._instruction = instruction
        self._metadata = dict(metadata)
        self._n_frames = 0
        self._n_steps = 0
        self._finished = False
        if (self.folder / "episode.json").exists():
            raise DataError(f"{self.folder}: holds an episode already; choose another folder")
        try:
            (self.folder / "frames").mkdir(parents=True, exist_ok=True)
            self._steps = open(self.folder / "steps.jsonl", "w", encoding="utf-8")  # noqa: SIM115 - open as long as self
            try_lock(self._steps.fileno())  # nobody repairs it meanwhile
        except OSError as error:
            raise DataError(f"{self.folder}: cannot write an episode: {error.strerror or error}") from error
        for name in (START_FILE, HEADER_FILE):
            self._write_header("recording", None, {}, name)

    @property
    def n_steps(self) -> int:
        """Steps written so far."""
        return self._n_steps

    def add_observation(
        self,
        frame: np.ndarray,
        state: Sequence[float] | np.ndarray | None = None,
        stamp_ns: int = 0,
        success: bool | None = None,
    ) -> None:
        """Write the frame (H, W, 3) and state (7,) seen now; see `Episode` for units.

        success: whether the task is done in this frame, by the station's own truth; None where it has none.
        """
        check_frame(frame, f"{self.folder}: frame {self._n_frames}")
        write_bytes(self.folder / "frames" / f"{self._n_frames:06d}.png", encode_image(frame), durable=False)
        values = [float("nan")] * STATE_DIM if state is None else [float(value) for value in state]
        if len(values) != STATE_DIM:
            raise DataError(f"{self.folder}: found a state of {len(values)} numbers, needed {STATE_DIM}")
        truth = {} if success is None else {"success": bool(success)}
        self._append({"frame": self._n_frames, "stamp_ns": int(stamp_ns), "state": _jsonable(values), **truth})
        self._n_frames += 1

    def add_step(
        self,
        action: Sequence[float] | np.ndarray,
        executed: Sequence[float] | np.ndarray | None = None,
        safety_events: Sequence[str] = (),
        holds: Sequence[str] | None = None,
        load: float | None = None,
        **facts: Any,
    ) -> None:
        """Write the action (7,) taken from the last observation, what the safety envelope made of it, and why.

        holds: kinds of the faults that held the arm before the next action; None where nobody would know.
        load: largest share of its allowed effort that a joint took meanwhile; None or NaN where nobody measured.
        """
        checked = check_actions(np.asarray(action, dtype=np.float32)[None], f"{self.folder}: step {self._n_steps}")[0]
        done = checked if executed is None else np.asarray(executed, dtype=np.float32)
        line = {
            "step": self._n_steps,
            "action": checked.tolist(),
            "executed": _jsonable(done.tolist()),
            "safety_events": list(safety_events),
        }
        if holds is not None:
            line.update(holds=list(holds), load=None if load is None else finite_or_none(round(load, 3)))
        self._append({**line, **facts})
        self._n_steps += 1

    def finish(self, success: bool | None = None, complete: bool = True, **outcome: Any) -> Path:
        """Close the episode with its outcome and return its folder. What was written is on the disk first."""
        if not self._finished:
            self._finished = True
            self._settle()
            self._write_header("complete" if complete else "incomplete", success, outcome)
        return self.folder

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish(complete=False)

    def _settle(self) -> None:
        """Give steps, frames and their names to the disk, and close the steps."""
        try:
            with self._steps:
                sync(self._steps.fileno())
            frames = self.folder / FRAMES_FOLDER
            for number in range(self._n_frames):
                sync_file(frames / f"{number:06d}.png")
            for folder in (frames, self.folder, self.folder.parent):
                sync_folder(folder)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot write: {error.strerror or error}; free disk space") from error

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._steps.write(json.dumps(line) + "\n")
            self._steps.flush()
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{self.folder}/steps.jsonl: cannot write: {reason}; free disk space") from error

    def _write_header(
        self, status: str, success: bool | None, outcome: Mapping[str, Any], name: str = HEADER_FILE
    ) -> None:
        header = {
            "format": "gymnast-episode",
            "version": FORMAT_VERSION,
            "status": status,
            "instruction": self._instruction,
            "steps": self._n_steps,
            "success": success,
            "metadata": {**self._metadata, **outcome},
        }
        write_json(self.folder / name, header)


def read_episode(folder: str | os.PathLike[str], frames: bool = True, size: int | None = None) -> Episode:
    """Read an episode folder, complete or cut short; with `frames=False` the frames array is empty.

    size: frames are squashed to (size, size), each as it is read.

    A recording that was cut short yields its whole steps: as many actions as have a frame before and after them.

    Raises: DataError naming the file when it is missing, not of this format, or its arrays do not fit together; also
        where a person's label beside it is damaged.
    """
    folder = Path(folder)
    header, label = read_header(folder), read_label(folder)
    observations: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    path = folder / "steps.jsonl"
    lines = read_step_lines(path)
    for number, text in lines:
        try:
            line = _step_line(text, f"{path}:{number}")
        except DocumentError as error:
            if number == lines[-1][0] and not isinstance(error, TwiceError):  # the crash came in the midst of it
                break
            raise DataError(f"{path}:{number}: not JSON ({error})") from error
        expected = len(observations), len(steps)
        (observations if check_number(line, *expected, f"{path}:{number}") else steps).append(line)
    n_steps = max(0, min(len(steps), len(observations) - 1))
    if not observations:
        raise DataError(f"{path}: no observation in it")
    observations, steps = observations[: n_steps + 1], steps[:n_steps]
    actions, executed, states, stamps = _arrays(observations, steps, str(path))
    images = np.empty((0, 0, 0, 3), dtype=np.uint8)
    if frames:
        numbers = [o["frame"] for o in observations]
        read = (read_image(folder / "frames" / f"{number:06d}.png") for number in numbers)
        pictures = [resize_frame(frame, size) if size else frame for frame in read]
        if len(sizes := {picture.shape[:2] for picture in pictures}) > 1:
            raise DataError(f"{folder}/frames: found sizes {sorted(sizes)} (height, width), needed one for all frames")
        images = np.stack(pictures)
    return Episode(
        instruction=header["instruction"],
        frames=images,
        actions=actions,
        executed=executed,
        states=states,
        stamps=stamps,
        success=label.success if label else header.get("success"),
        complete=header.get("status") == "complete",
        metadata={**header["metadata"], "outcome_by": BY_PERSON} if label else header["metadata"],
    )


def read_step_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines of a steps.jsonl that are not blank, each with its number from 1. Raises: DataError."""
    try:
        content = read_whole(path, LONGEST_LINES)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    return [(number, text) for number, text in enumerate(content.split(b"\n"), start=1) if text.strip()]


def read_step_line(text: bytes, frames: int, steps: int, name: str) -> int | None:
    """Check one line of steps.jsonl. Returns the number of the frame of an observation, None for a step.

    frames, steps: how many of each stand before it.

    Raises: DataError when it is no such line, a number in it is missing or out of range, or a line before it is lost.
    """
    try:
        line = _step_line(text, name)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON ({str(error)[:80]})") from error
    is_observation = check_number(line, frames, steps, name)
    _arrays([line] if is_observation else [], [] if is_observation else [line], name)
    return line["frame"] if is_observation else None


def check_number(line: Mapping[str, Any], frames: int, steps: int, name: str) -> bool:
    """Whether a line is an observation, not a step. frames, steps: how many of each stand before it.

    Raises: DataError where another number stands in it: a line is lost, stands twice, or is another recording's, and
        actions would stand beside pictures that do not belong to them.
    """
    kind = "frame" if "frame" in line else "step"
    expected = frames if kind == "frame" else steps
    if line.get(kind, expected) != expected:
        raise DataError(
            f"{name}: {kind}: found {line[kind]!r:.40}, needed {expected}; a line before it is lost, or two recordings "
            "are mixed; `gymnast data recover` keeps what stands before it"
        )
    return kind == "frame"


def _step_line(text: bytes, name: str) -> dict[str, Any]:
    """The fields of a line. Raises: DataError; DocumentError."""
    line = parse_json(text)
    if not isinstance(line, dict):
        raise DataError(f"{name}: found {type(line).__name__}, needed a mapping of fields")
    for kind in ("frame", "step"):
        if type(line.get(kind, 0)) is not int:
            raise DataError(f"{name}: {kind}: found {line[kind]!r:.40}, needed a whole number")
    return line


def _arrays(
    observations: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Actions, executed actions, states and stamps of lines that belong together. Raises: DataError."""
    n_steps, n_observations = len(steps), len(observations)
    try:
        actions = np.array([_numbers(step["action"]) for step in steps], np.float32).reshape(n_steps, ACTION_DIM)
        executed = np.array([_floats(step["executed"]) for step in steps], np.float32).reshape(n_steps, ACTION_DIM)
        states = np.array([_floats(o["state"]) for o in observations], np.float32).reshape(n_observations, STATE_DIM)
        stamps = np.array([o["stamp_ns"] for o in observations], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name}: a line lacks a field or holds the wrong count of numbers ({error})") from error
    return check_actions(actions, name), executed, states, stamps


def iterate_frames(folder: str | os.PathLike[str], count: int) -> Iterator[np.ndarray]:
    """The first `count` frames of an episode folder, one at a time. Raises: DataError."""
    for number in range(count):
        check_stop()
        yield read_image(Path(folder) / "frames" / f"{number:06d}.png")


def write_episode(
    folder: str | os.PathLike[str],
    episode: Episode,
    facts: Sequence[Mapping[str, Any]] = (),
    frames: Iterable[np.ndarray] | None = None,
) -> Path:
    """Write a whole episode at once, for converters and imagined rollouts.

    facts: what else is known of each step. frames: taken one at a time instead of the episode's own.

    Raises: DataError, also where there are not T + 1 frames; what was written then is marked incomplete.
    """
    with EpisodeWriter(folder, episode.instruction, episode.metadata) as writer:
        seen = 0
        for frame in episode.frames if frames is None else frames:
            seen += 1
            if seen > episode.length + 1:
                break
            if step := seen - 1:
                known = facts[step - 1] if step <= len(facts) else {}
                writer.add_step(episode.actions[step - 1], episode.executed[step - 1], **known)
            writer.add_observation(frame, episode.states[step], int(episode.stamps[step]))
        if seen != episode.length + 1:
            found = "more" if seen > episode.length + 1 else str(seen)
            raise DataError(f"{folder}: found {found} frames, needed {episode.length + 1}, one more than actions")
        return writer.finish(success=episode.success, complete=episode.complete)


def find_episodes(root: str | os.PathLike[str]) -> list[Path]:
    """Folders of finished episodes below `root`, sorted by path.

    Raises: DataError when there is none.
    """
    found = list(iterate_episodes(root))
    if not found:
        raise DataError(f"{root}: no episode folder (with an episode.json) below it")
    return found


def iterate_episodes(root: str | os.PathLike[str]) -> Iterator[Path]:
    """Like `find_episodes`, but empty where there is nothing."""
    for path in files_below(root, "episode.json"):
        if path.name == "episode.json":
            yield path.parent


def read_header(folder: Path, name: str = HEADER_FILE) -> dict[str, Any]:
    """The fields of episode.json. Raises: DataError when it is missing, broken or of another format."""
    path = folder / name
    try:
        header = parse_json(read_whole(path))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: not an episode folder (it holds no {name})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits, ...
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != "gymnast-episode":
        raise DataError(f"{path}: not a gymnast episode")
    if header.get("version") != FORMAT_VERSION:
        raise DataError(f"{path}: version {header.get('version')}, this release reads {FORMAT_VERSION}")
    if not isinstance(header.get("instruction"), str):
        raise DataError(f"{path}: field 'instruction' is missing or not text")
    if not isinstance(header.get("success"), (bool, type(None))):
        raise DataError(f"{path}: success: found {header['success']!r}, needed true, false or null")
    if not isinstance(header.setdefault("metadata", {}), dict):
        raise DataError(f"{path}: metadata: found {type(header['metadata']).__name__}, needed a mapping of facts")
    return header


def _jsonable(values: Sequence[float]) -> list[float | None]:
    """JSON has no NaN: null stands for "not measured"."""
    return [None if not np.isfinite(value) else float(value) for value in values]


def _floats(values: Sequence[float | None]) -> list[float]:
    return _numbers([float("nan") if value is None else value for value in values])


def _numbers(values: Sequence[float]) -> list[float]:
    """Raises: TypeError where there is something else, such as text, which NumPy would take for a number."""
    if wrong := [value for value in values if not is_number(value)]:
        raise TypeError(f"found {wrong[0]!r:.40}, needed a number")
    return [float(value) for value in values]

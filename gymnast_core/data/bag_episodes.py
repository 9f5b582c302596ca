"""Bags that others recorded, read: one bag is one episode. `bags.yaml` says which topic holds what (`BagConfig`).

It lies in the bag's folder, beside a single `.mcap` or `.db3` file, or up to two folders above; a bag without it is
passed over. `gymnast data topics` writes it. Instruction and outcome stand in `description.json` in the bag's folder,
or in X.json beside X.mcap. `gymnast_core.data.bag_alignment` has the rules by which topics become steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from gymnast_core.config import BagConfig, load_config
from gymnast_core.data.bag_alignment import OLDEST, check_clocks, check_rate, even_times, latest, seen_at, steps_seen
from gymnast_core.data.bag_messages import frame_in
from gymnast_core.data.bag_reader import Bag
from gymnast_core.data.bag_streams import Recording, read_recording
from gymnast_core.data.episode import HEADER_FILE, STATE_DIM, Episode
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.frames import check_frame, resize_frame
from gymnast_core.data.sidecar import read_sidecar
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import DataError
from gymnast_core.files import file_names

SETTINGS_FILE, METADATA_FILE, DESCRIPTION_FILE = "bags.yaml", "metadata.yaml", "description.json"
SUFFIXES = (".mcap", ".db3")
X_FORWARD = {"x": np.eye(3), "z": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])}
"""Turns the frame of a tool, named by its axis that points out of the gripper, into one whose x axis does."""
BRIDGE_FROM_DOWN = np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
"""Ry(pi/2) transposed: with it, a gripper that points straight down has zero angles."""


@dataclass(frozen=True)
class Plan:
    """Which messages are the frames, and what was done and measured between them.

    pictures: of each of T + 1 frames, when it was received (nanoseconds), and which of those received then it is.
    actions: (T, 7). states: (T + 1, 7). start: nanoseconds. left_out: actions without a frame before or after them.
    """

    pictures: Sequence[tuple[int, int]]
    actions: np.ndarray
    states: np.ndarray
    start: int
    left_out: int
    instruction: str
    camera: str


@dataclass(frozen=True)
class BagEpisode(StoredEpisode):
    """A rosbag2 folder, or one `.mcap` or `.db3` file. camera: a topic that takes the place of the settings' own."""

    camera: str = ""

    def files(self) -> Sequence[Path]:
        stored = [self.path / name for name in file_names(self.path) if _is_stored(name)]
        return (*(stored or [self.path]), self._settings_file)

    def describe(self) -> Description:
        text, success = read_sidecar(self._description)
        metadata = {"source": "robot", "file": self.path.name}
        return Description(text or self._plan.instruction, success, metadata)

    def steps(self) -> Episode:
        about, plan = self.describe(), self._plan
        left_out = {"actions_left_out": plan.left_out} if plan.left_out else {}
        stamps = plan.start + np.round(np.arange(len(plan.pictures)) * self._period * 1e9).astype(np.int64)
        return Episode(
            instruction=about.instruction,
            frames=np.empty((0, 0, 0, 3), dtype=np.uint8),
            actions=plan.actions,
            executed=plan.actions,
            states=plan.states,
            stamps=stamps,
            success=about.success,
            metadata={**about.metadata, **left_out},
        )

    def count(self) -> int:
        return len(self._plan.pictures)

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        numbers = range(self.count())
        with Bag(self.path) as bag:
            pictures = self._plan.pictures
            if list(pictures) == sorted(pictures):
                yield from self._shown(bag, numbers, size)
            else:  # stamped in another order than received
                for number in numbers:
                    yield from self._shown(bag, range(number, number + 1), size)

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        with Bag(self.path) as bag:
            wanted = self.number(number)
            return next(self._shown(bag, range(wanted, wanted + 1), size))

    def position(self, number: int) -> list[float] | None:
        return self.steps().position(number)

    def seen_by(self, camera: str) -> BagEpisode:
        return replace(self, camera=camera)

    def _shown(self, bag: Bag, numbers: Sequence[int], size: int | None) -> Iterator[np.ndarray]:
        """These frames, whose pictures were received in this order, in one pass through the bag."""
        topic, waiting = self._plan.camera, list(numbers)
        pictures = [self._plan.pictures[number] for number in numbers]
        before, place = None, 0
        for message in bag.messages([topic], pictures[0][0], pictures[-1][0]):
            place = place + 1 if message.received == before else 0
            before = message.received
            while waiting and pictures[-len(waiting)] == (message.received, place):
                where = f"{self.path}: topic '{topic}': frame {waiting.pop(0)}"
                frame = check_frame(frame_in(message, where), where)
                yield resize_frame(frame, size) if size else frame
        if waiting:
            raise DataError(f"{self.path}: topic '{topic}': frame {waiting[0]} is gone; the bag was changed")

    @property
    def _description(self) -> Path:
        return self.path / DESCRIPTION_FILE if self.path.is_dir() else self.path.with_suffix(".json")

    @property
    def _settings_file(self) -> Path:
        found = settings_file(self.path if self.path.is_dir() else self.path.parent)
        if found is None:
            raise DataError(f"{self.path}: found no {SETTINGS_FILE} with it, which says what its topics hold")
        return found

    @cached_property
    def _config(self) -> BagConfig:
        config = load_config(BagConfig, self._settings_file)
        return replace(config, image=self.camera) if self.camera else config

    @property
    def _period(self) -> float:
        return 1.0 / self._config.rate_hz

    @cached_property
    def _plan(self) -> Plan:
        return plan_of(self.path, self._config)


def plan_of(path: Path, config: BagConfig) -> Plan:
    """How a bag becomes an episode. Raises: DataError naming bag, topic and message."""
    found = read_recording(path, config)
    try:
        if config.stamps == "header":
            check_clocks(found.streams)
        return _from_poses(found, config) if config.actions_from == "poses" else _from_actions(found, config)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _from_actions(found: Recording, config: BagConfig) -> Plan:
    """Each message of the actions' topic is a step."""
    assert found.actions is not None
    by_header, period = config.stamps == "header", 1.0 / config.rate_hz
    times, order = found.actions.in_order(by_header)
    check_rate(times, period, config.actions)
    pictures, numbers = found.pictures.in_order(by_header)
    first, kept = steps_seen(times, pictures, period, config.actions)
    end = times[kept] if kept < len(times) else times[-1] + round(period * 1e9)
    at = np.append(times[first:kept], end)
    rows = seen_at(pictures, at, period, found.pictures.topic)
    actions = np.array([found.actions.values[k] for k in order[first:kept]], dtype=np.float32)
    check_bridge(actions, f"topic '{config.actions}'")
    left_out = first + len(times) - kept
    return _plan(found, config, [numbers[row] for row in rows], at, actions, left_out)


def _from_poses(found: Recording, config: BagConfig) -> Plan:
    """Steps at even times; an action is what the end effector did between two of them, and the gripper after it."""
    by_header, period = config.stamps == "header", 1.0 / config.rate_hz
    spans = [stream.in_order(by_header)[0] for stream in found.streams]
    at = even_times(max(times[0] for times in spans), min(times[-1] for times in spans), period)
    if len(at) < 2:
        raise DataError("found no two steps in which every topic has a message")
    for stream, times in zip(found.streams, spans):
        seen_at(times, at, period, stream.topic)
    pictures, numbers = found.pictures.in_order(by_header)
    plan = _plan(found, config, [numbers[row] for row in latest(pictures, at)], at, np.empty((0, 7), np.float32), 0)
    assert found.poses is not None
    times, order = found.poses.in_order(by_header)
    poses = np.array([found.poses.values[order[row]] for row in latest(times, at)])
    turns = Rotation.from_quat(poses[:, 3:])
    actions = np.empty((len(at) - 1, 7), dtype=np.float32)
    actions[:, :3] = np.diff(poses[:, :3], axis=0)
    actions[:, 3:6] = (turns[1:] * turns[:-1].inv()).as_euler("xyz")
    actions[:, 6] = plan.states[1:, 6]
    return replace(plan, actions=check_bridge(actions, f"topic '{config.poses}'"))


def _plan(
    found: Recording, config: BagConfig, pictures: Sequence[int], at: np.ndarray, actions: np.ndarray, left_out: int
) -> Plan:
    received = np.array(found.pictures.received, dtype=np.int64)
    places = [(int(received[k]), int((received[:k] == received[k]).sum())) for k in pictures]
    states = _states(found, config, at)
    return Plan(places, actions, states, int(at[0]), left_out, found.instruction, found.pictures.topic)


def _states(found: Recording, config: BagConfig, at: np.ndarray) -> np.ndarray:
    """(k, 7) float32 at these times, in Bridge convention; NaN where nothing was measured shortly before."""
    by_header, period = config.stamps == "header", 1.0 / config.rate_hz
    states = np.full((len(at), STATE_DIM), np.nan, dtype=np.float32)
    for stream, columns in ((found.poses, slice(0, 6)), (found.gripper, slice(6, 7))):
        if stream is None:
            continue
        times, order = stream.in_order(by_header)
        for step, row in enumerate(latest(times, at)):
            if row < 0 or (at[step] - times[row]) / 1e9 > OLDEST * period:
                continue
            value = stream.values[order[row]]
            states[step, columns] = _bridge_pose(value, config) if stream is found.poses else value
    return states


def _bridge_pose(pose: np.ndarray, config: BagConfig) -> np.ndarray:
    """(6,) Bridge pose of a measured one: see `Episode.states`."""
    turned = Rotation.from_quat(pose[3:]).as_matrix() @ X_FORWARD[config.tool_axis] @ BRIDGE_FROM_DOWN
    return np.concatenate([pose[:3], Rotation.from_matrix(turned).as_euler("xyz")])


def settings_file(folder: Path) -> Path | None:
    """The `bags.yaml` of a folder, or of one up to two above; None where there is none."""
    whole = folder.resolve()
    places = (above / SETTINGS_FILE for above in [whole, *whole.parents][:3])
    return next((place for place in places if place.is_file()), None)


def bags_in(folder: Path, names: Sequence[str]) -> list[Path]:
    """The bags that these files of a folder make up: the folder, or single files; not the log of an episode of ours."""
    stored = [name for name in names if _is_stored(name)]
    if not stored or (folder.parent / HEADER_FILE).exists():
        return []
    return [folder] if METADATA_FILE in names else [folder / name for name in stored if name.endswith(SUFFIXES)]


def _is_stored(name: str) -> bool:
    """Whether a file of this name holds messages; rosbag2 may pack whole files."""
    return name.removesuffix(".zstd").endswith(SUFFIXES)


def _find(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    found = bags_in(folder, names)
    return found if found and settings_file(folder) else ()


FORMAT = Format(
    "bags", "a rosbag2 folder, X.mcap or X.db3, with bags.yaml there or in a folder above", _find, BagEpisode
)

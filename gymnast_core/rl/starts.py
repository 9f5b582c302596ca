"""Where rollouts begin: start frames with instructions, from folders, episodes or a station's tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.episode import iterate_episodes, read_episode
from gymnast_core.data.frames import files_below, read_image, resize_frame
from gymnast_core.errors import DataError
from gymnast_core.progress import console
from gymnast_core.protocols import Start
from gymnast_core.run_folder import derive_seed

MAX_INSTRUCTION = 500


def check_instruction(instruction: str, name: str = "instruction") -> str:
    """The instruction without outer blanks.

    Raises: DataError when it is empty, longer than 500 characters, or holds control characters.
    """
    text = instruction.strip()
    if not text:
        raise DataError(f"{name}: found an empty text, needed what the robot should do, e.g. 'open the drawer'")
    if len(text) > MAX_INSTRUCTION:
        raise DataError(f"{name}: found {len(text)} characters, allowed are at most {MAX_INSTRUCTION}")
    if any(ord(character) < 32 for character in text):
        raise DataError(f"{name}: found a line break or control character, needed one line of text")
    return text


def read_starts(folder: str | Path, size: int | None = None) -> list[Start]:
    """Start frames below a folder: `X.png` (or .jpg) with `X.json` {"instruction": ...} beside it (WorldGym's trials),
    and the first frames of logged episodes; sorted by path, squashed to (size, size) where given.

    A broken image or description is left out with a warning that names it.

    Raises: DataError when the folder does not exist or nothing in it is usable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of start frames")
    starts: list[Start] = []
    for description in files_below(folder, ".json"):
        images = [description.with_suffix(suffix) for suffix in (".png", ".jpg", ".jpeg")]
        image = next((path for path in images if path.exists()), None)
        if image is None:
            continue
        try:
            frame = read_image(image)
            content = json.loads(description.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("instruction"), str):
                raise DataError(f"{description}: field 'instruction' is missing or not text")
            instruction = check_instruction(content["instruction"], f"{description}: instruction")
        except (DataError, OSError, ValueError) as error:
            console.print(f"warning: left out: {error}", style="yellow", markup=False)
            continue
        starts.append(Start(instruction, _fit(frame, size), seed=len(starts)))
    for path in iterate_episodes(folder):
        try:
            episode = read_episode(path, frames=False)
            instruction = check_instruction(episode.instruction, f"{path}: instruction")
            frame = read_image(path / "frames" / "000000.png")
        except DataError as error:
            console.print(f"warning: left out: {error}", style="yellow", markup=False)
            continue
        starts.append(Start(instruction, _fit(frame, size), seed=len(starts), position=episode.position(0)))
    if not starts:
        raise DataError(
            f'{folder}: no start frame below it; needed X.png with X.json {{"instruction": ...}}, or episodes'
        )
    return starts


def station_starts(station: StationConfig, tasks: Sequence[str], resets: int, seed: int) -> list[Start]:
    """`resets` different resets of each task (all tasks of the station when none is named)."""
    names = list(tasks) or sorted(station.tasks)
    if not names:
        raise DataError(f"station '{station.name}' has no task; add one under 'tasks'")
    return [
        Start(station.task(name).instruction, None, name, derive_seed(seed, "reset", name, number))
        for number in range(resets)
        for name in names
    ]


class StartSampler:
    """Chooses the starts of each batch of groups, by seed: tasks in turn, or by how much they can teach.

    curriculum: "uniform" takes every start equally often; "variance" weighs a start by p (1 - p) of its success rate so
    far (with one imagined success and one failure as prior), which is largest where a group is most likely to differ.
    """

    def __init__(self, starts: Sequence[Start], seed: int, curriculum: str = "uniform") -> None:
        if not starts:
            raise DataError("no start to roll out from; name a folder of start frames or a task")
        self.starts = list(starts)
        self._seed = seed
        self._curriculum = curriculum
        self._identity = [_digest(start) for start in self.starts]
        self._tried = np.zeros(len(self.starts))
        self._reward = np.zeros(len(self.starts))

    def draw(self, batch: int, count: int) -> list[int]:
        """Indices of the `count` starts of one batch; instructions are mixed evenly."""
        generator = np.random.default_rng(derive_seed(self._seed, "starts", batch))
        order: list[int] = []
        while len(order) < count:
            keys = generator.exponential(size=len(self.starts)) / self.weights()
            by_task: dict[str, list[int]] = {}
            for index in np.argsort(keys, kind="stable"):
                by_task.setdefault(self.starts[index].instruction, []).append(int(index))
            queues = list(by_task.values())
            generator.shuffle(queues)
            while any(queues):
                order.extend(queue.pop(0) for queue in queues if queue)
        return order[:count]

    def weights(self) -> np.ndarray:
        """Weight of each start, (n,) positive, mean 1."""
        if self._curriculum == "uniform":
            return np.ones(len(self.starts))
        rate = (self._reward + 1.0) / (self._tried + 2.0)
        weight = np.maximum(rate * (1.0 - rate), 0.02)
        return weight / weight.mean()

    def record(self, index: int, rewards: np.ndarray) -> None:
        """Remember the rewards of a group that began at start `index`."""
        self._tried[index] += len(rewards)
        self._reward[index] += float(np.clip(rewards, 0.0, 1.0).sum())

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"starts": self._identity, "tried": self._tried.tolist(), "reward": self._reward.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises: DataError when the checkpoint knew other starts."""
        then, now = state["starts"], self._identity
        if then != now:
            other = next((i for i, pair in enumerate(zip(then, now)) if pair[0] != pair[1]), min(len(then), len(now)))
            raise DataError(
                f"the run to resume began at {len(then)} starts, now there are {len(now)}, and start {other} is not "
                "the same (instruction, frame, position or reset); use the same starts or another run folder"
            )
        self._tried = np.array(state["tried"], dtype=np.float64)
        self._reward = np.array(state["reward"], dtype=np.float64)


def _digest(start: Start) -> str:
    """What a start is, in a few characters."""
    digest = hashlib.sha256(f"{start.instruction}\n{start.task}\n".encode())
    if start.frame is None:
        digest.update(str(start.seed).encode())
    else:
        digest.update(str(start.frame.shape).encode() + np.ascontiguousarray(start.frame).tobytes())
        if start.position is not None:
            digest.update(np.array(start.position, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]


def _fit(frame: np.ndarray, size: int | None) -> np.ndarray:
    return resize_frame(frame, size) if size else frame

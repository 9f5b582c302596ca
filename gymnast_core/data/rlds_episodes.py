"""RLDS, as TensorFlow Datasets keeps it: files of TFRecords, one `tf.train.Example` for each episode.

    NAME-SPLIT.tfrecord-00000-of-00001   record k is an episode; features.json and dataset_info.json lie beside it

Of BridgeData's fields, `steps/action`, a picture in `steps/observation` and the first and last step are needed. The
action of the last step is left out: no frame shows what came of it. Episode k of a file is named FILE.00000k; no such
file exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.episode import ACTION_DIM, STATE_DIM, Episode, check_actions
from gymnast_core.data.examples import Values, parse_example
from gymnast_core.data.formats import Description, Format, StoredEpisode
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.pictures import decode_image
from gymnast_core.data.records import find_records, read_record
from gymnast_core.data.rlds_writer import FEATURES_FILE, RldsWriter
from gymnast_core.data.sidecar import named_camera
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import DataError, DocumentError
from gymnast_core.plain_json import parse_json

SHARD = re.compile(r"(?P<name>.+)-(?P<split>\w+)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})", re.DOTALL)
HELD_OUT = ("test", "val", "validation")
PERIOD_NS = 200_000_000
"""Between two steps where no stamps are kept: BridgeData was recorded at 5 Hz, and the layout says nothing more."""
OBSERVATION = "steps/observation/"
CAMERA = "image_0"
"""BridgeData's name of the camera that looks over the arm's shoulder."""
KNOWN = ("episode_metadata/success", "episode_metadata/complete")
PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG")


def episode_path(shard: Path, number: int) -> Path:
    """What names episode `number` of a file, counted from 0."""
    return shard.with_name(f"{shard.name}.{number:06d}")


@dataclass(frozen=True)
class RldsEpisode(StoredEpisode):
    """One record of a file of TFRecords, of T + 1 steps; the last one holds the last frame alone.

    camera: the picture in `steps/observation` that is seen; empty: see `_camera`.
    """

    camera: str = ""

    @property
    def shard(self) -> Path:
        """The file that holds the episode."""
        return self.path.with_suffix("")

    @property
    def record(self) -> int:
        """The number of its record there."""
        return int(self.path.suffix[1:])

    def files(self) -> Sequence[Path]:
        return (self.shard,)

    def describe(self) -> Description:
        texts = {text.strip() for text in self._texts("steps/language_instruction")}
        if len(texts) > 1:
            raise DataError(f"{self._where}: steps/language_instruction: found {len(texts)} instructions, needed one")
        return Description("".join(texts), self._success(), self._metadata())

    def steps(self) -> Episode:
        about, count = self.describe(), self.count()
        where = f"{self._where}: steps/action"
        actions = self._rows("steps/action", ACTION_DIM)
        executed = self._rows("steps/executed", ACTION_DIM, actions)
        states = self._rows(f"{OBSERVATION}state", STATE_DIM, np.full((count, STATE_DIM), np.nan, np.float32))
        stamps = self._example.get("steps/stamp_ns", np.arange(count, dtype=np.int64) * PERIOD_NS)
        if not isinstance(stamps, np.ndarray) or stamps.shape != (count,):
            raise DataError(f"{self._where}: steps/stamp_ns: found {len(stamps)} values, needed {count}")
        return Episode(
            instruction=about.instruction,
            frames=np.empty((0, 0, 0, 3), dtype=np.uint8),
            actions=check_bridge(check_actions(actions[:-1], where), where),
            executed=check_bridge(executed[:-1], f"{self._where}: steps/executed"),
            states=states,
            stamps=stamps.astype(np.int64),
            success=about.success,
            complete=bool(self._number("episode_metadata/complete", 1)),
            metadata=about.metadata,
        )

    def count(self) -> int:
        first, last = (self._example.get(f"steps/{name}") for name in ("is_first", "is_last"))
        if not isinstance(first, np.ndarray) or not isinstance(last, np.ndarray) or len(first) != len(last):
            raise DataError(f"{self._where}: steps/is_first and steps/is_last: needed both, one value for each step")
        ends = np.zeros(len(first), dtype=np.int64)
        ends[:1] = 1
        if not len(first) or not (np.array_equal(first, ends) and np.array_equal(last, ends[::-1])):
            raise DataError(
                f"{self._where}: steps/is_first or steps/is_last: needed 1 in the first and the last of the "
                f"{len(first)} steps alone; is a record one episode?"
            )
        return len(first)

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        return (self.frame(number, size) for number in range(self.count()))

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        camera, count = self._camera, self.count()
        pictures = self._example[camera]
        if len(pictures) != count:
            raise DataError(f"{self._where}: {camera}: found {len(pictures)} pictures, needed {count}")
        frame = decode_image(pictures[self.number(number)], f"{self._where}: {camera}: step {number}")
        return resize_frame(frame, size) if size else frame

    def position(self, number: int) -> list[float] | None:
        return self.steps().position(number)

    def facts(self) -> Sequence[Mapping[str, Any]]:
        return [self._json("steps/facts", text) for text in self._texts("steps/facts")[:-1]]

    def seen_by(self, camera: str) -> RldsEpisode:
        return replace(self, camera=camera.removeprefix(OBSERVATION))

    @property
    def held_out(self) -> bool:
        shard = SHARD.fullmatch(self.shard.name)
        return shard is not None and shard["split"] in HELD_OUT

    @property
    def _where(self) -> str:
        return f"{self.shard}: record {self.record}"

    @property
    def _example(self) -> Mapping[str, Values]:
        return _read(self.shard, self.record, self.stamp())

    @property
    def _camera(self) -> str:
        """The feature that holds the frames: the one that a dataset.json names, BridgeData's, or the only one."""
        found = [
            name
            for name, values in sorted(self._example.items())
            if name.startswith(OBSERVATION) and isinstance(values, list) and _are_pictures(values)
        ]
        names = [name.removeprefix(OBSERVATION) for name in found]
        wanted = self.camera or named_camera(self.shard.parent) or (CAMERA if CAMERA in names else "")
        if not wanted and len(found) == 1:
            return found[0]
        if wanted not in names:
            listed = ", ".join(names) or "no pictures"
            remedy = "needed one camera; say which in dataset.json beside the file: {'camera': 'NAME'}"
            raise DataError(f"{self._where}: {OBSERVATION}{wanted or '*'}: found {listed}; {remedy}")
        return f"{OBSERVATION}{wanted}"

    def _rows(self, name: str, width: int, otherwise: np.ndarray | None = None) -> np.ndarray:
        """(T + 1, width) float32. Raises: DataError where it is of another kind, or missing and nothing stands for
        it."""
        values, count = self._example.get(name), self.count()
        if values is None and otherwise is not None:
            return otherwise
        if not isinstance(values, np.ndarray) or values.dtype != np.float32:
            others = [key for key in self._example if key.startswith(name)]
            found = ", ".join(sorted(others))[:120] or "nothing of that name"
            raise DataError(f"{self._where}: {name}: found {found}; needed {width} numbers (float32) for each step")
        if len(values) != count * width:
            found = f"{len(values) / count:g} numbers for each of {count} steps"
            raise DataError(f"{self._where}: {name}: found {found}, needed {width}")
        if np.isinf(values).any():
            raise DataError(f"{self._where}: {name}: found an infinite number, needed finite ones")
        return values.reshape(count, width)

    def _texts(self, name: str) -> list[str]:
        values = self._example.get(name, [])
        if not isinstance(values, list):
            raise DataError(f"{self._where}: {name}: found numbers, needed texts")
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError as error:
            raise DataError(f"{self._where}: {name}: not UTF-8 ({error})") from error

    def _number(self, name: str, otherwise: int) -> int:
        values = self._example.get(name)
        if values is None:
            return otherwise
        if not isinstance(values, np.ndarray) or values.shape != (1,) or values[0] not in (-1, 0, 1):
            raise DataError(f"{self._where}: {name}: needed one whole number, 1, 0 or -1 (not known)")
        return int(values[0])

    def _success(self) -> bool | None:
        known = self._number("episode_metadata/success", -1)
        return None if known < 0 else bool(known)

    def _metadata(self) -> dict[str, Any]:
        """Facts of the episode: those that our own writer kept whole, or the single values that others keep."""
        own = self._texts("episode_metadata/metadata")
        if own:
            return self._json("episode_metadata/metadata", own[0])
        facts: dict[str, Any] = {"source": "robot", "file": self.name}
        for name, values in sorted(self._example.items()):
            if name.startswith("episode_metadata/") and name not in KNOWN and len(values) == 1:
                key, value = name.removeprefix("episode_metadata/"), values[0]
                facts.setdefault(key, value.decode(errors="replace") if isinstance(value, bytes) else value.item())
        return facts

    def _json(self, name: str, text: str) -> dict[str, Any]:
        try:
            content = parse_json(text)
        except DocumentError as error:
            raise DataError(f"{self._where}: {name}: not JSON ({error})") from error
        if not isinstance(content, dict):
            raise DataError(f"{self._where}: {name}: found {type(content).__name__}, needed a mapping")
        return content


@lru_cache(maxsize=1)
def _read(shard: Path, record: int, _stamp: str) -> Mapping[str, Values]:
    """The episode that was read last: a step after the other is asked of one, and no second one stays in memory."""
    return parse_example(read_record(shard, record), f"{shard}: record {record}")


def _are_pictures(values: list[bytes]) -> bool:
    return bool(values) and values[0].startswith(PICTURE_STARTS)


def _find(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    """One path for each record: the files are opened to count them, and no record is read."""
    if FEATURES_FILE not in names:
        return
    for shard in (folder / name for name in names if SHARD.fullmatch(name)):
        yield from (episode_path(shard, number) for number in range(find_records(shard).count))


FORMAT = Format(
    "rlds",
    "NAME-SPLIT.tfrecord-00000-of-00001 with features.json beside it",
    _find,
    RldsEpisode,
    open_writer=RldsWriter,
)

"""Writes RLDS as TensorFlow Datasets keeps it, so that `tfds.builder_from_directory` opens the folder.

BridgeData's fields stand where its readers look for them. What our episodes hold besides (executed actions, stamps,
facts of each step, outcome, metadata) has fields of its own, so that nothing is lost on the way there and back.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.dataset_writer import DatasetWriter, check_length, to_be_copied, written_whole
from gymnast_core.data.episode import ACTION_DIM, STATE_DIM, Episode
from gymnast_core.data.examples import pack_example
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.frames import encode_image
from gymnast_core.data.records import write_record
from gymnast_core.files import write_json
from gymnast_core.progress import check_stop

FEATURES_FILE, INFO_FILE = "features.json", "dataset_info.json"
NAME, VERSION = "gymnast", "1.0.0"
TRAIN, TEST = "train", "test"
SHARD_BYTES = 512 << 20
"""A file is closed when it grows beyond this."""


@dataclass(frozen=True)
class RldsWriter(DatasetWriter):
    """One record for each episode; `finish` lays them behind each other. Held-out episodes are the split "test"."""

    def has(self, number: int, name: str) -> bool:
        return any(self._piece(number, split).exists() for split in (TRAIN, TEST))

    def add(self, number: int, name: str, source: StoredEpisode) -> None:
        piece = self._piece(number, TEST if source.held_out else TRAIN)
        suffix = ".png" if self.settings.frames == "pictures" else ".jpg"
        with written_whole(piece, self.pieces / f"{number:06d}.tmp") as temporary:
            episode, facts = to_be_copied(source)
            pictures = []
            for frame in source.frames():
                check_stop()
                pictures.append(encode_image(frame, suffix))
            check_length(source, episode, len(pictures))
            content = pack_example(_features(episode, facts, pictures, name))
            with open(temporary, "wb") as stream:
                write_record(stream, content)

    def finish(self, count: int) -> None:
        shutil.rmtree(self.whole, ignore_errors=True)
        self.whole.mkdir(parents=True)
        splits = [self._join(split, count) for split in (TRAIN, TEST)]
        encoding = "png" if self.settings.frames == "pictures" else "jpeg"
        write_json(self.whole / FEATURES_FILE, _declared(encoding))
        info = {
            "fileFormat": "tfrecord",
            "moduleName": "gymnast_core.data.rlds_writer",
            "name": NAME,
            "splits": [split for split in splits if split["shardLengths"]],
            "version": VERSION,
        }
        write_json(self.whole / INFO_FILE, info)

    def _piece(self, number: int, split: str) -> Path:
        return self.pieces / f"{number:06d}.{split}"

    def _join(self, split: str, count: int) -> dict[str, Any]:
        """Lay the records of a split behind each other. Returns its entry in dataset_info.json."""
        shards: list[list[Path]] = []
        room = total = 0
        for piece in (self._piece(number, split) for number in range(count)):
            if not piece.exists():
                continue
            size = piece.stat().st_size
            if not shards or size > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(piece)
            room -= size
            total += size
        for number, pieces in enumerate(shards):
            place = self.whole / f"{NAME}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
            with open(place, "wb") as stream:
                for piece in pieces:
                    check_stop()
                    with open(piece, "rb") as record:
                        shutil.copyfileobj(record, stream)
                stream.flush()
                os.fsync(stream.fileno())
        return {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": str(total),
            "shardLengths": [str(len(pieces)) for pieces in shards],
        }


def _features(
    episode: Episode, facts: list[dict[str, Any]], pictures: list[bytes], name: str
) -> dict[str, list[bytes] | np.ndarray]:
    """What stands in an episode's Example. The last of the T + 1 steps moves nothing and holds the gripper."""
    count = episode.length + 1
    number = np.arange(count)
    rest = np.zeros((1, ACTION_DIM), dtype=np.float32)
    rest[0, 6] = episode.actions[-1, 6] if episode.length else 1.0
    done = np.where(number == count - 1, episode.success is True, False)
    told = [json.dumps(fact).encode() for fact in (*facts, {})]
    return {
        "steps/observation/image_0": pictures,
        "steps/observation/state": episode.states,
        "steps/action": np.concatenate([episode.actions, rest]),
        "steps/executed": np.concatenate([episode.executed, rest]),
        "steps/stamp_ns": episode.stamps,
        "steps/facts": told,
        "steps/language_instruction": [episode.instruction.encode()] * count,
        "steps/is_first": number == 0,
        "steps/is_last": number == count - 1,
        "steps/is_terminal": done,
        "steps/reward": done.astype(np.float32),
        "steps/discount": np.ones(count, dtype=np.float32),
        "episode_metadata/file_path": [name.encode()],
        "episode_metadata/success": np.array([-1 if episode.success is None else episode.success]),
        "episode_metadata/complete": np.array([episode.complete]),
        "episode_metadata/metadata": [json.dumps(dict(episode.metadata)).encode()],
    }


def _declared(encoding: str) -> dict[str, Any]:
    """features.json: the types of `_features`, in the words of TensorFlow Datasets. Sides of frames are left open."""
    picture = {"dtype": "uint8", "encodingFormat": encoding, "shape": {"dimensions": ["-1", "-1", "3"]}}
    text: dict[str, Any] = _feature("text_feature.Text", text={})
    truth, number, real = (_tensor(dtype) for dtype in ("bool", "int64", "float32"))
    step = {
        "observation": _mapping(
            {"image_0": _feature("image_feature.Image", image=picture), "state": _tensor("float32", STATE_DIM)}
        ),
        "action": _tensor("float32", ACTION_DIM),
        "executed": _tensor("float32", ACTION_DIM),
        "stamp_ns": number,
        "facts": text,
        "language_instruction": text,
        "is_first": truth,
        "is_last": truth,
        "is_terminal": truth,
        "reward": real,
        "discount": real,
    }
    about = {"file_path": text, "success": number, "complete": truth, "metadata": text}
    steps = _feature("dataset_feature.Dataset", sequence={"feature": _mapping(step), "length": "-1"})
    return _mapping({"steps": steps, "episode_metadata": _mapping(about)})


def _feature(kind: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{kind}", **content}


def _mapping(features: dict[str, Any]) -> dict[str, Any]:
    return _feature("features_dict.FeaturesDict", featuresDict={"features": features})


def _tensor(dtype: str, length: int = 0) -> dict[str, Any]:
    """A number, or `length` of them."""
    shape = {"dimensions": [str(length)]} if length else {}
    kind = "tensor_feature.Tensor" if length else "scalar.Scalar"
    return _feature(kind, tensor={"dtype": dtype, "encoding": "none", "shape": shape})

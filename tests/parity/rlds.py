"""A data set of BridgeData's fields, written by TensorFlow Datasets itself: what our reader is compared with.

python -c "from tests.parity import rlds; rlds.write('FOLDER')"    where tensorflow-cpu and tensorflow-datasets are
python -c "from tests.parity import rlds; rlds.read('FOLDER')"     opens what we wrote, and prints it as JSON
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

HEIGHT, WIDTH = 32, 40


class Bridge(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Three episodes to train on and one to validate, of 5 steps and more."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        kinds = tfds.features
        picture = kinds.Image(shape=(HEIGHT, WIDTH, 3), dtype=np.uint8, encoding_format="jpeg")
        truth, number, row = (
            kinds.Scalar(dtype=np.bool_),
            kinds.Scalar(dtype=np.float32),
            kinds.Tensor(shape=(7,), dtype=np.float32),
        )
        step = {
            "observation": kinds.FeaturesDict({"image_0": picture, "image_1": picture, "state": row}),
            "action": row,
            "discount": number,
            "reward": number,
            "is_first": truth,
            "is_last": truth,
            "is_terminal": truth,
            "language_instruction": kinds.Text(),
            "language_embedding": kinds.Tensor(shape=(4,), dtype=np.float32),
        }
        about = {
            "file_path": kinds.Text(),
            "has_image_0": truth,
            "has_image_1": truth,
            "has_language": truth,
            "episode_id": kinds.Scalar(dtype=np.int32),
        }
        features = kinds.FeaturesDict({"steps": kinds.Dataset(step), "episode_metadata": kinds.FeaturesDict(about)})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, _manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(0, 3), "val": self._generate_examples(3, 1)}

    def _generate_examples(self, first: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(first, first + count):
            about = {
                "file_path": f"/nfs/a b/ü{number}.npy",
                "has_image_0": True,
                "has_image_1": False,
                "has_language": True,
                "episode_id": number,
            }
            yield number, {"steps": list(_steps(number)), "episode_metadata": about}


def _steps(number: int) -> Iterator[dict[str, Any]]:
    random, count = np.random.default_rng(number), 5 + number
    for step in range(count):
        frame = np.full((HEIGHT, WIDTH, 3), 20 * number + 5 * step, np.uint8)
        frame[4:12, 3 * step : 3 * step + 8] = (200, 40, 10)
        action = random.uniform(-0.03, 0.03, 7).astype(np.float32)
        action[6] = step % 2
        state = random.normal(size=7).astype(np.float32) * 0.1
        yield {
            "observation": {"image_0": frame, "image_1": np.zeros_like(frame), "state": state},
            "action": action,
            "discount": 1.0,
            "reward": float(step == count - 1),
            "is_first": step == 0,
            "is_last": step == count - 1,
            "is_terminal": step == count - 1,
            "language_instruction": f"öffne die Schublade {number}",
            "language_embedding": np.zeros(4, np.float32),
        }


def write(place: str) -> None:
    """The data set's files, and `expected.npz`: what TensorFlow Datasets reads from them."""
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as building:
        builder = Bridge(data_dir=building)
        builder.download_and_prepare()
        for file in Path(builder.data_dir).iterdir():
            shutil.copy(file, folder)
        found: dict[str, Any] = {}
        for split in ("train", "val"):
            for k, example in enumerate(builder.as_dataset(split=split)):
                steps = list(example["steps"])
                found[f"{split}_{k}_action"] = np.stack([step["action"].numpy() for step in steps])
                found[f"{split}_{k}_state"] = np.stack([step["observation"]["state"].numpy() for step in steps])
                found[f"{split}_{k}_frames"] = np.stack([step["observation"]["image_0"].numpy() for step in steps])
                found[f"{split}_{k}_instruction"] = np.array(steps[0]["language_instruction"].numpy().decode())
        np.savez_compressed(folder / "expected.npz", **found)


def read(folder: str) -> None:
    """One line of JSON: the episodes of each split, as TensorFlow Datasets sees them."""
    builder = tfds.builder_from_directory(folder)
    found: dict[str, Any] = {}
    for split in builder.info.splits:
        for example in builder.as_dataset(split=split):
            steps = list(example["steps"])
            found.setdefault(split, []).append(
                {
                    "actions": [step["action"].numpy().tolist() for step in steps],
                    "instruction": steps[0]["language_instruction"].numpy().decode(),
                    "shape": list(steps[0]["observation"]["image_0"].shape),
                    "mean": [float(step["observation"]["image_0"].numpy().mean()) for step in steps],
                    "last": [bool(step["is_last"]) for step in steps],
                    "success": int(example["episode_metadata"]["success"]),
                }
            )
    print(json.dumps(found))

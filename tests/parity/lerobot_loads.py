"""Run by a Python that has lerobot: load a data set, and print what came of it as one line of JSON.

PYTHON_WITH_LEROBOT tests/parity/lerobot_loads.py DATASET
"""

import json
import sys
import tempfile
from pathlib import Path

from lerobot.datasets.dataset_tools import merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features
from torch.utils.data import DataLoader

CAMERA = "observation.images.image"


def main(root: str) -> None:
    dataset = LeRobotDataset("local/ours", root=root, video_backend="pyav")
    rows = [dataset[number] for number in range(len(dataset))]
    next(iter(DataLoader(dataset, batch_size=3, shuffle=True)))
    again = LeRobotDataset("local/again", root=root, video_backend="pyav")
    with tempfile.TemporaryDirectory() as folder:
        merged = len(merge_datasets([dataset, again], "local/merged", Path(folder) / "merged"))
    found = {
        "episodes": dataset.meta.total_episodes,
        "frames": len(dataset),
        "fps": dataset.fps,
        "merged": merged,
        "inputs": {name: list(f.shape) for name, f in dataset_to_policy_features(dataset.features).items()},
        "rows": [
            {
                "task": row["task"],
                "action": row["action"].tolist(),
                "state": row["observation.state"].tolist(),
                "colour": row[CAMERA].mean((1, 2)).tolist(),
            }
            for row in rows
        ],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

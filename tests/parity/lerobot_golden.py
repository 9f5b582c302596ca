"""Run by a Python that has lerobot: write the data set of tests/goldens/lerobot, and what lerobot reads of it.

    PYTHON_WITH_LEROBOT tests/parity/lerobot_golden.py FOLDER

lerobot 0.4.4 wrote v3.0 and as_lerobot_reads_it.json; 0.3.3 wrote v2.1.
"""

import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets import lerobot_dataset as library

HEIGHT, WIDTH = 48, 64
AXES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
CAMERAS = ("over_shoulder", "wrist")
EPISODES = ((6, "put the carrot on the plate"), (4, "close the drawer"), (5, "put the carrot on the plate"))
NEW = library.CODEBASE_VERSION == "v3.0"


def features() -> dict:
    shape = {"shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    return {
        **{f"observation.images.{name}": {"dtype": "video", **shape} for name in CAMERAS},
        "observation.state": {"dtype": "float32", "shape": (8,), "names": [*AXES[:6], "pad", "gripper"]},
        "action": {"dtype": "float32", "shape": (7,), "names": AXES},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }


def write(root: Path) -> None:
    """A square that moves by 6 pixels a frame, and a wrist camera that grows darker."""
    more = {"vcodec": "h264"} if NEW else {}
    dataset = library.LeRobotDataset.create(
        "local/golden", fps=5, root=root, robot_type="widowx", features=features(), use_videos=True, **more
    )
    random = np.random.default_rng(5)
    for episode, (count, task) in enumerate(EPISODES):
        for k in range(count):
            shoulder = np.full((HEIGHT, WIDTH, 3), 40 + 20 * episode, np.uint8)
            shoulder[8:24, 4 + 6 * k : 16 + 6 * k] = (220, 60 + 30 * episode, 30)
            action = random.uniform(-0.03, 0.03, 7).astype(np.float32)
            action[6] = k % 2
            frame = {
                "observation.images.over_shoulder": shoulder,
                "observation.images.wrist": np.full((HEIGHT, WIDTH, 3), 200 - 10 * k, np.uint8),
                "observation.state": random.uniform(-0.3, 0.3, 8).astype(np.float32),
                "action": action,
                "next.success": np.array([k >= count - 2 and episode != 1]),
            }
            dataset.add_frame({**frame, "task": task}) if NEW else dataset.add_frame(frame, task=task)
        dataset.save_episode()
    if NEW:
        dataset.finalize()


def read(root: Path) -> list[dict]:
    """Every frame as lerobot gives it; of pictures the mean colour, 0 to 255, of where the square is."""
    dataset, found = library.LeRobotDataset("local/golden", root=root, video_backend="pyav"), []
    for number in range(len(dataset)):
        item = dataset[number]
        k = int(item["frame_index"])
        row = {"episode": int(item["episode_index"]), "frame": k, "task": item["task"]}
        row |= {"action": item["action"].tolist(), "state": item["observation.state"].tolist()}
        row["success"] = bool(item["next.success"])
        for name in CAMERAS:
            part = item[f"observation.images.{name}"][:, 8:24, 4 + 6 * k : 16 + 6 * k]
            row[name] = [round(float(value) * 255, 2) for value in part.mean((1, 2))]
        found.append(row)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder)
    if NEW:
        content = {"lerobot": library.CODEBASE_VERSION, "frames": read(folder)}
        (folder / "as_lerobot_reads_it.json").write_text(json.dumps(content))

"""WorldGym's dataset layout: `N.mp4` with `N.npz` beside it, `arr_0` (T, 10) scaled actions, one frame a step.

The scaling (WorldGym): translation x 35 clipped to +-1.75, rotation x 5.6 clipped to +-1.4, gripper -1 open and
+1 closed, the last three zero. Action k of the file leads to frame k, so the first one is not used.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gymnast_core.data.arrays import read_array
from gymnast_core.data.episode import ACTION_DIM, Episode
from gymnast_core.data.frames import files_below, resize_frame
from gymnast_core.errors import DataError

TRANSLATION_SCALE = 35.0
ROTATION_SCALE = 5.6
TRANSLATION_LIMIT = 1.75
ROTATION_LIMIT = 1.4
OPEN_THRESHOLD = 0.8
WORLDGYM_ACTION_DIM = 10


def scale_actions(actions: np.ndarray) -> np.ndarray:
    """Bridge actions (..., 7) to WorldGym's (..., 10) float32."""
    scaled = np.zeros((*actions.shape[:-1], WORLDGYM_ACTION_DIM), dtype=np.float32)
    scaled[..., :3] = np.clip(actions[..., :3] * TRANSLATION_SCALE, -TRANSLATION_LIMIT, TRANSLATION_LIMIT)
    scaled[..., 3:6] = np.clip(actions[..., 3:6] * ROTATION_SCALE, -ROTATION_LIMIT, ROTATION_LIMIT)
    scaled[..., 6] = np.where(actions[..., 6] > OPEN_THRESHOLD, -1.0, 1.0)
    return scaled


def unscale_actions(scaled: np.ndarray) -> np.ndarray:
    """WorldGym's (..., 10) actions back to Bridge (..., 7) float32; gripper 1 = open, 0 = closed."""
    actions = np.zeros((*scaled.shape[:-1], 7), dtype=np.float32)
    actions[..., :3] = scaled[..., :3] / TRANSLATION_SCALE
    actions[..., 3:6] = scaled[..., 3:6] / ROTATION_SCALE
    actions[..., 6] = scaled[..., 6] < 0
    return actions


def read_worldgym_episode(video: str | os.PathLike[str], size: int | None = None, instruction: str = "") -> Episode:
    """Read `N.mp4` and `N.npz` as an episode of T - 1 steps, frames squashed to (size, size) where given.

    Raises: DataError when either file is missing or broken, the counts differ, or an action is not finite.
    """
    video = Path(video)
    frames = read_video(video, size)
    path = video.with_suffix(".npz")
    scaled = read_array(path, ("arr_0",))
    if scaled.ndim != 2 or scaled.shape[1] != WORLDGYM_ACTION_DIM:
        raise DataError(f"{path}: 'arr_0' has shape {scaled.shape}, needed (steps, {WORLDGYM_ACTION_DIM})")
    if len(scaled) != len(frames):
        raise DataError(
            f"{path}: {len(scaled)} actions for the {len(frames)} frames of {video.name}; needed one a frame"
        )
    actions = unscale_actions(scaled[1:])
    return Episode(
        instruction=instruction,
        frames=frames,
        actions=actions,
        executed=actions,
        states=np.full((len(frames), 7), np.nan, dtype=np.float32),
        stamps=np.arange(len(frames), dtype=np.int64) * 200_000_000,
        metadata={"source": "robot", "file": video.name},
    )


def read_actions(path: str | os.PathLike[str]) -> np.ndarray:
    """Bridge actions (T, 7) float32 kept in a file, T at least 1: metres, radians, gripper 1 = open.

    The file: `.npy`, or `.npz` with the array `actions` (or `arr_0`); (T, 7) Bridge, or WorldGym's (T, 10), whose row k
    leads to frame k, so that the first row is left out.

    Raises: DataError naming the file, what was found and what is allowed.
    """
    array = read_array(path, ("actions", "arr_0"))
    if array.ndim != 2 or array.shape[1] not in (ACTION_DIM, WORLDGYM_ACTION_DIM):
        raise DataError(
            f"{path}: found actions of shape {array.shape}; needed (T, 7) Bridge or (T, 10) WorldGym actions"
        )
    actions = unscale_actions(array[1:]) if array.shape[1] == WORLDGYM_ACTION_DIM else array
    if not len(actions):
        raise DataError(f"{path}: found no actions, needed at least one step")
    return actions


def read_video(path: str | os.PathLike[str], size: int | None = None) -> np.ndarray:
    """All frames of a video (T, H, W, 3) uint8 RGB, squashed to (size, size) where given.

    Raises: DataError when the file is missing, broken or empty.
    """
    import av  # tens of megabytes, for videos alone

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{path}: cannot read the video ({error})") from error
    if not frames:
        raise DataError(f"{path}: the video has no frames")
    return np.stack([resize_frame(frame, size) if size else frame for frame in frames])


def find_worldgym_episodes(root: str | os.PathLike[str]) -> list[Path]:
    """Videos below `root` that have an `.npz` beside them, sorted by path; empty where there is none."""
    return [path for path in files_below(root, ".mp4") if path.with_suffix(".npz").exists()]

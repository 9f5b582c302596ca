"""WorldGym's dataset layout: `N.mp4` with `N.npz` beside it, `arr_0` (T, 10) scaled actions, one row for each frame.

The scaling of a Bridge arm: translation x 35 clipped to +-1.75, rotation x 5.6 clipped to +-1.4, gripper -1 open and
+1 closed, the last three zero. Other robots use the same columns in their own ranges: gripper 0 stays as it is, the
last three move a base. A world model is trained on the rows as they are (`read_vectors`); a policy needs Bridge
actions, and what is none is refused (`unscale_actions`). Row k leads to frame k, so the first row is no step.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gymnast_core.data.arrays import read_array
from gymnast_core.data.episode import ACTION_DIM
from gymnast_core.data.films import film_index
from gymnast_core.data.films import read_video as read_video  # where scripts look for it
from gymnast_core.data.sidecar import read_description
from gymnast_core.errors import DataError, LengthError

TRANSLATION_SCALE = 35.0
ROTATION_SCALE = 5.6
TRANSLATION_LIMIT = 1.75
ROTATION_LIMIT = 1.4
OPEN_THRESHOLD = 0.8
WORLDGYM_ACTION_DIM = 10
COLUMNS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper", "base 1", "base 2", "base 3")
ROUNDING = 1e-3
GRIPPER_ROUNDING = 0.01
STEP_LIMIT_M = 0.5
"""No step of a WidowX is longer: its reach is 0.75 m. A longer one is in other units."""

SEVERAL = 5
TURNED, UNIT_ROUNDING = 0.03, 2e-4
"""Beyond such a rotation (radians), three angles and a gripper that is 0 or 1 are never of length 1, up to rounding."""
USUAL_M, USUAL_RAD = 0.15, 0.8
"""No arm makes half of its steps, a fifth of a second each, longer than this: three times the largest of Bridge's."""


def scale_actions(actions: np.ndarray) -> np.ndarray:
    """Bridge actions (..., 7) to WorldGym's (..., 10) float32."""
    scaled = np.zeros((*actions.shape[:-1], WORLDGYM_ACTION_DIM), dtype=np.float32)
    scaled[..., :3] = np.clip(actions[..., :3] * TRANSLATION_SCALE, -TRANSLATION_LIMIT, TRANSLATION_LIMIT)
    scaled[..., 3:6] = np.clip(actions[..., 3:6] * ROTATION_SCALE, -ROTATION_LIMIT, ROTATION_LIMIT)
    scaled[..., 6] = np.where(actions[..., 6] > OPEN_THRESHOLD, -1.0, 1.0)
    return scaled


def check_scalable(actions: np.ndarray, name: str) -> np.ndarray:
    """Return Bridge actions (T, 7) that WorldGym's rows can hold, so that `unscale_actions` gives them back.

    Raises: DataError naming column, value and row of one that would be clipped or rounded.
    """
    size = np.abs(actions)
    for columns, bad, allowed in (
        (slice(0, 3), size[:, :3] * TRANSLATION_SCALE > TRANSLATION_LIMIT + ROUNDING, "-0.05 to 0.05 (metres)"),
        (slice(3, 6), size[:, 3:6] * ROTATION_SCALE > ROTATION_LIMIT + ROUNDING, "-0.25 to 0.25 (radians)"),
        (slice(6, 7), np.abs(actions[:, 6:7] - np.rint(actions[:, 6:7])) > GRIPPER_ROUNDING, "0 and 1 (open)"),
    ):
        told = f"WorldGym's rows hold {allowed}; clip with --clip"
        _refuse(actions[:, columns], bad, columns.start, name, told)
    return actions


def unscale_actions(scaled: np.ndarray, name: str = "WorldGym actions") -> np.ndarray:
    """WorldGym's (..., 10) actions of a Bridge arm back to Bridge (..., 7) float32; gripper 1 = open, 0 = closed.

    Raises: DataError naming column and value where they are not a Bridge arm's: translation beyond 1.75, rotation
        beyond 1.4, a gripper that is neither -1 nor 1, a base that moves.
    """
    size = np.abs(scaled)
    for columns, bad, allowed in (
        (slice(0, 3), size[..., :3] > TRANSLATION_LIMIT + ROUNDING, f"-{TRANSLATION_LIMIT} to {TRANSLATION_LIMIT}"),
        (slice(3, 6), size[..., 3:6] > ROTATION_LIMIT + ROUNDING, f"-{ROTATION_LIMIT} to {ROTATION_LIMIT}"),
        (slice(6, 7), np.abs(size[..., 6:7] - 1.0) > ROUNDING, "-1 (open) and 1 (closed)"),
        (slice(7, 10), size[..., 7:] > ROUNDING, "0: a WidowX has no base that moves"),
    ):
        _refuse(scaled[..., columns], bad, columns.start, name, f"as a Bridge action allowed are {allowed}")
    actions = np.zeros((*scaled.shape[:-1], 7), dtype=np.float32)
    actions[..., :3] = scaled[..., :3] / TRANSLATION_SCALE
    actions[..., 3:6] = scaled[..., 3:6] / ROTATION_SCALE
    actions[..., 6] = scaled[..., 6] < 0
    return actions


def check_bridge(actions: np.ndarray, name: str) -> np.ndarray:
    """Return Bridge actions (..., 7). NaN (not measured) passes.

    Raises: DataError naming column and value where they cannot be metres, radians and a gripper from 0 to 1, or where
        those of an episode, (T, 7), are places instead of steps, or end in a quaternion.
    """
    turned = actions[np.linalg.norm(actions[..., 3:6], axis=-1) > TURNED] if actions.ndim == 2 else actions[:0]
    if len(turned) >= SEVERAL and (np.abs(np.linalg.norm(turned[:, 3:7], axis=-1) - 1.0) < UNIT_ROUNDING).all():
        raise DataError(
            f"{name}: columns 3 to 6 are of length 1 wherever they turn, as quaternions are; needed roll, pitch, yaw "
            "(radians) and a gripper from 0 to 1"
        )
    for columns, low, high, usual, unit in (
        (slice(0, 3), -STEP_LIMIT_M, STEP_LIMIT_M, USUAL_M, "metres"),
        (slice(3, 6), -np.pi, np.pi, USUAL_RAD, "radians"),
        (slice(6, 7), -GRIPPER_ROUNDING, 1.0 + GRIPPER_ROUNDING, np.inf, "1 = open"),
    ):
        part = actions[..., columns]
        allowed = f"allowed are {round(low, 2):g} to {round(high, 2):g} ({unit})"
        _refuse(part, (part < low) | (part > high), columns.start, name, allowed)
        for column, values in enumerate(part.T if actions.ndim == 2 else (), columns.start):
            steps = np.abs(values[np.isfinite(values)])
            middle = float(np.median(steps)) if len(steps) >= SEVERAL else 0.0
            if middle > usual:
                raise DataError(
                    f"{name}: column {column} ({COLUMNS[column]}): half of its steps are {middle:.3g} or more, "
                    f"usual are at most {usual:g} ({unit}); are these places instead of steps, or other units?"
                )
    return actions


def read_vectors(video: str | os.PathLike[str]) -> np.ndarray:
    """`arr_0` (T, 10) float32 of `N.npz` beside the video, exactly as it is, of whatever robot: row k leads to frame k.

    Raises: DataError when the file is missing, broken or of another shape, a value is not finite, there is not one row
        for each frame of the video (counted, not decoded), or its gripper runs from 0 to 1: in WorldGym's layout -1 is
        open, 1 closed and 0 "stays as it is". Where an episode's gripper only stays and closes,
        `{"gripper": "relative"}` says so, in `N.json` or in the `dataset.json` of a folder above.
    """
    path = Path(video).with_suffix(".npz")
    vectors = read_array(path, ("arr_0",))
    if vectors.ndim != 2 or vectors.shape[1] != WORLDGYM_ACTION_DIM:
        raise DataError(f"{path}: 'arr_0' has shape {vectors.shape}, needed (steps, {WORLDGYM_ACTION_DIM})")
    frames = film_index(video).count
    if len(vectors) != frames:
        raise LengthError(
            f"{path}: {len(vectors)} actions for the {frames} frames of {Path(video).name}; needed one per frame"
        )
    gripper = vectors[:, 6:7]
    _refuse(gripper, np.abs(gripper) > 1.0 + ROUNDING, 6, str(path), "allowed are -1 (open) to 1 (closed)")
    if len(gripper) and gripper.min() >= 0 and not _says_relative(Path(video)):
        told = (
            "and nowhere -1 (open): a gripper from 0 to 1 must become -1 (open) and 1 (closed); one that only stays "
            'and closes is declared by {"gripper": "relative"} in N.json or dataset.json'
        )
        _refuse(gripper, gripper < 1.0 - ROUNDING, 6, str(path), told)
    return vectors


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
    scaled = array.shape[1] == WORLDGYM_ACTION_DIM
    actions = unscale_actions(array[1:], str(path)) if scaled else check_bridge(array, str(path))
    if not len(actions):
        raise DataError(f"{path}: found no actions, needed at least one step")
    return actions


def _says_relative(video: Path) -> bool:
    """Whether the episode, or a data set that it lies in (its folder, or two above), says what gripper 0 means."""
    places = [video.with_suffix(".json"), *(folder / "dataset.json" for folder in list(video.resolve().parents)[:3])]
    for place in places:
        said = read_description(place).get("gripper")
        if said not in (None, "relative", "absolute"):
            raise DataError(f"{place}: gripper: found {str(said)[:40]!r}, allowed are 'relative' and 'absolute'")
        if said is not None:
            return bool(said == "relative")
    return False


def _refuse(values: np.ndarray, bad: np.ndarray, first: int, name: str, allowed: str) -> None:
    """Raises: DataError naming the first bad value, its column and its row."""
    if not bad.any():
        return
    place = tuple(np.argwhere(bad)[0])
    column = first + int(place[-1])
    row = f" at row {', '.join(map(str, place[:-1]))}" if len(place) > 1 else ""
    raise DataError(f"{name}: column {column} ({COLUMNS[column]}): found {float(values[place]):.4g}{row}; {allowed}")

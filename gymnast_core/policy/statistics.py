"""Action statistics of a data set: how actions are normalised to [-1, 1] and back ("BOUNDS_Q99" of OpenVLA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.errors import CheckpointError, DataError

EPSILON = 1e-8
GRIPPER = 6
MAX_ACTION = 1000.0


@dataclass(frozen=True)
class ActionStatistics:
    """Per dimension: 1st and 99th percentile, and whether it is normalised (the gripper is not).

    low, high: (7,) float64, metres and radians. mask: (7,) bool.
    """

    low: np.ndarray
    high: np.ndarray
    mask: np.ndarray

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """Bridge actions (..., 7) to [-1, 1] float64, clipped; an unmasked dimension is passed through."""
        scaled = 2.0 * (actions - self.low) / (self.high - self.low + EPSILON) - 1.0
        return np.where(self.mask, np.clip(scaled, -1.0, 1.0), actions)

    def unnormalise(self, values: np.ndarray) -> np.ndarray:
        """The inverse, (..., 7) float64."""
        return np.where(self.mask, 0.5 * (values + 1.0) * (self.high - self.low + EPSILON) + self.low, values)


def read_statistics(norm_stats: Mapping[str, Any], unnorm_key: str | None, source: str) -> ActionStatistics:
    """The statistics stored under `unnorm_key`; None takes the only entry there is.

    Raises: CheckpointError that lists the keys present, or names the dimension that is not finite or has no range.
    """
    present = ", ".join(sorted(norm_stats)) or "none"
    if unnorm_key is None:
        if len(norm_stats) != 1:
            raise CheckpointError(f"{source}: choose statistics with unnorm_key; present: {present}")
        unnorm_key = next(iter(norm_stats))
    if unnorm_key not in norm_stats:
        raise CheckpointError(f"{source}: no statistics '{unnorm_key}'; present: {present}")
    where = f"{source}: statistics '{unnorm_key}'"
    entry = norm_stats[unnorm_key]
    action = entry.get("action") if isinstance(entry, Mapping) else None
    if not isinstance(action, Mapping) or "q01" not in action or "q99" not in action:
        raise CheckpointError(f"{where}: action.q01 or action.q99 is missing")
    try:
        low = np.asarray(action["q01"], dtype=np.float64)
        high = np.asarray(action["q99"], dtype=np.float64)
        mask = np.asarray(action.get("mask", [True] * len(low)))
        if mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
            raise ValueError("mask is not made of true and false")
        mask = mask.astype(bool)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{where}: q01, q99 or mask are not lists of numbers ({error})") from error
    if low.shape != (7,) or high.shape != (7,) or mask.shape != (7,):
        raise CheckpointError(
            f"{where}: q01, q99 and mask have shapes {low.shape}, {high.shape}, {mask.shape}; needed (7,)"
        )
    for dimension in range(7):
        if not (np.isfinite(low[dimension]) and np.isfinite(high[dimension])):
            raise CheckpointError(f"{where}: q01 or q99 of dimension {dimension} is not finite")
        if max(abs(low[dimension]), abs(high[dimension])) > MAX_ACTION:
            raise CheckpointError(
                f"{where}: dimension {dimension} goes from {low[dimension]:g} to {high[dimension]:g}, allowed are "
                f"{-MAX_ACTION:g} to {MAX_ACTION:g} (m or rad)"
            )
        if mask[dimension] and high[dimension] - low[dimension] < 1e-6:
            raise CheckpointError(
                f"{where}: dimension {dimension} has no range (q01 {low[dimension]}, q99 {high[dimension]})"
            )
    return ActionStatistics(low, high, mask)


def compute_statistics(
    actions: Sequence[np.ndarray], min_translation: float = 0.01, min_rotation: float = 0.02
) -> dict[str, Any]:
    """Statistics of episodes' actions, each (T, 7), in the layout of `dataset_statistics.json`.

    A dimension the data hardly uses is widened about its middle to `min_translation` metres or `min_rotation`
    radians, so that its bins stay meaningful. The gripper is not normalised.

    Raises: DataError when there is no action.
    """
    if not actions or not sum(len(array) for array in actions):
        raise DataError("statistics: found no action, needed at least one step")
    stacked = np.concatenate([np.asarray(array, dtype=np.float64) for array in actions])
    low, high = np.quantile(stacked, 0.01, axis=0), np.quantile(stacked, 0.99, axis=0)
    for dimension in range(GRIPPER):
        floor = min_translation if dimension < 3 else min_rotation
        if high[dimension] - low[dimension] < floor:
            middle = (high[dimension] + low[dimension]) / 2
            low[dimension], high[dimension] = middle - floor / 2, middle + floor / 2
    return {
        "action": {
            "mean": stacked.mean(0).tolist(),
            "std": stacked.std(0).tolist(),
            "max": stacked.max(0).tolist(),
            "min": stacked.min(0).tolist(),
            "q01": low.tolist(),
            "q99": high.tolist(),
            "mask": [True] * GRIPPER + [False],
        },
        "num_transitions": len(stacked),
        "num_trajectories": len(actions),
    }

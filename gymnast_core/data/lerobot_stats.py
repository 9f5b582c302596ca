"""Statistics of a LeRobot data set's columns: least, largest, mean, standard deviation and quantiles.

Those of numbers are exact. Those of pictures are of every colour channel, from 0 to 1, over a sample of frames and
pixels, as lerobot does it. Those of the data set are put together of its episodes', quantiles by their weighted mean.
Source: lerobot 0.4.4, `lerobot/datasets/compute_stats.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
FEWEST, MOST, POWER = 100, 10_000, 0.75
"""Frames of an episode of N that are looked at: N to this power, within these bounds."""
SIDE = 150
"""Larger pictures are thinned to about this side."""
Stats = Mapping[str, Any]


def of_numbers(values: np.ndarray) -> dict[str, list[float]]:
    """Of a column (N,) or (N, D): lists of 1 or D numbers, and the count N."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return {**{name: value.tolist() for name, value in found.items()}, "count": [len(rows)]}


class PictureStats:
    """Adds up the colours of an episode's frames as they pass; it holds three histograms and no frame.

    length: number of frames that will come.
    """

    def __init__(self, length: int) -> None:
        wanted = min(length, max(FEWEST, min(MOST, int(length**POWER))))
        self._chosen = set(np.linspace(0, length - 1, wanted).round().astype(int).tolist())
        self._seen = 0
        self._counts = np.zeros((3, 256), dtype=np.int64)

    def add(self, frame: np.ndarray) -> None:
        """frame: (H, W, 3) uint8."""
        if self._seen in self._chosen:
            every = max(1, max(frame.shape[:2]) // SIDE)
            thin = frame[::every, ::every].reshape(-1, 3)
            for channel in range(3):
                self._counts[channel] += np.bincount(thin[:, channel], minlength=256)
        self._seen += 1

    def result(self) -> dict[str, Any]:
        """Lists of shape (3, 1, 1), and how many frames were looked at."""
        values, total = np.arange(256) / 255.0, self._counts.sum(1)
        share, reached = self._counts / total[:, None], self._counts.cumsum(1)
        mean = share @ values
        found = {
            "min": [values[row > 0].min() for row in self._counts],
            "max": [values[row > 0].max() for row in self._counts],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0)),
        }
        for name, part in QUANTILES.items():
            found[name] = [values[np.searchsorted(row, part * row[-1])] for row in reached]
        shaped = {name: np.reshape(value, (3, 1, 1)).tolist() for name, value in found.items()}
        return {**shaped, "count": [len(self._chosen)]}


def of_dataset(episodes: Sequence[Mapping[str, Stats]]) -> dict[str, dict[str, Any]]:
    """The statistics of all episodes, column by column, weighted by their counts."""
    return {column: _joined([stats[column] for stats in episodes]) for column in (episodes[0] if episodes else ())}


def _joined(parts: Sequence[Stats]) -> dict[str, Any]:
    counts = np.array([part["count"][0] for part in parts], dtype=np.float64)
    weights = counts / counts.sum()

    def column(name: str) -> np.ndarray:
        return np.array([part[name] for part in parts])

    def weighted(values: np.ndarray) -> np.ndarray:
        return np.tensordot(weights, values, axes=1)

    means = column("mean")
    mean = weighted(means)
    found = {
        "min": column("min").min(0),
        "max": column("max").max(0),
        "mean": mean,
        "std": np.sqrt(weighted(column("std") ** 2 + (means - mean) ** 2)),
        **{name: weighted(column(name)) for name in QUANTILES},
    }
    return {**{name: value.tolist() for name, value in found.items()}, "count": [int(counts.sum())]}

"""How two figures of the same things go together: correlations with intervals, and rank violations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Correlation:
    """A correlation with the interval that holds 95 of 100 bootstrap samples; None where there is nothing to tell."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.2f}" + (f" ({self.low:.2f} to {self.high:.2f})" if self.low is not None else "")


FEWEST = 3
"""Two points always lie on a line."""


def correlation(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    kind: Literal["pearson", "spearman"] = "pearson",
    seed: int = 0,
    resamples: int = 10_000,
) -> Correlation:
    """How x and y of the same points go together, -1 to 1: in proportion, or in rank. The interval: points drawn anew.

    None where there are fewer than three points, or one side does not vary. Samples that do not vary are left out.

    Raises: ValueError when the counts differ.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"found {len(first)} and {len(second)} values; pairs were needed")
    n = len(first)
    statistic = _pearson if kind == "pearson" else _spearman
    if n < FEWEST or not math.isfinite(value := float(statistic(first, second))):
        return Correlation(None)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    samples = statistic(first[drawn], second[drawn])
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    return Correlation(value, float(low), float(high))


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of (..., n) values, (...); NaN where one side does not vary."""
    dx, dy = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    spread = np.sqrt((dx**2).sum(axis=-1) * (dy**2).sum(axis=-1))
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0) & (spread > 0)
    return np.where(varies, ((dx * dy).sum(axis=-1) / np.where(varies, spread, 1.0)).clip(-1.0, 1.0), np.nan)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same of their ranks; equal ones share theirs."""
    from scipy.stats import rankdata  # it takes a second to import

    return _pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def rank_violation(real: Sequence[float] | np.ndarray, told: Sequence[float] | np.ndarray) -> float:
    """Mean maximum rank violation (SIMPLER, arXiv 2405.05941), 0 to 1; NaN without points.

    For each point the largest difference in `real` to another one that `told` puts on the wrong side of it; the mean.
    """
    first, second = np.asarray(real, dtype=np.float64), np.asarray(told, dtype=np.float64)
    if not len(first):
        return math.nan
    wrong = (first[:, None] < first) != (second[:, None] < second)
    return float((np.abs(first[:, None] - first) * wrong).max(axis=1).mean())

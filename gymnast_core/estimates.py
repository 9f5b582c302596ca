"""Success rates with standard errors, and paired differences on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error over n trials; NaN where there is nothing to estimate from."""

    mean: float
    standard_error: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f} (n = {self.n})"

    def is_above_zero(self, standard_errors: float) -> bool:
        """Whether the mean is positive and at least that many standard errors; False where either is unknown."""
        return self.mean > 0 and self.mean >= standard_errors * self.standard_error


def success_rate(outcomes: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of outcomes in [0, 1] with its standard error; outcomes that are NaN (abstentions) are left out.

    For binary outcomes the error is that of a proportion with one success and one failure added (Agresti and Coull), so
    that 0 of 10 and 10 of 10 are not reported as certain.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    if np.isin(values, (0.0, 1.0)).all():
        smoothed = (values.sum() + 1.0) / (n + 2.0)
        return Estimate(float(values.mean()), math.sqrt(smoothed * (1.0 - smoothed) / n), n)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan, n)


def paired_difference(before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of after - before over pairs (same start, same seed) with its standard error; pairs with a NaN are left out.

    Raises: ValueError when the counts differ: then they are no pairs.
    """
    first = np.asarray(before, dtype=np.float64)
    second = np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"found {len(first)} outcomes before and {len(second)} after; pairs were needed")
    difference = (second - first)[np.isfinite(first) & np.isfinite(second)]
    n = len(difference)
    if n < 2:
        return Estimate(float(difference.mean()) if n else math.nan, math.nan, n)
    return Estimate(float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(n)), n)


def area_under_curve(scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray) -> Estimate:
    """Probability that a positive has the higher score than a negative, equal ones counting half (AUROC).

    Its standard error is that of Hanley and McNeil (Radiology 143, 1982); NaN where there are no positives or no
    negatives. n: of both.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    higher, lower = values[truth], values[~truth]
    p, q = len(higher), len(lower)
    if not p or not q:
        return Estimate(math.nan, math.nan, p + q)
    above = (higher[:, None] > lower[None]).mean() + (higher[:, None] == lower[None]).mean() / 2
    area = float(above)
    first, second = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (p - 1) * (first - area * area) + (q - 1) * (second - area * area)
    return Estimate(area, math.sqrt(max(variance, 0.25 / (p + q)) / (p * q)) if p * q else math.nan, p + q)

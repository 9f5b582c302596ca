"""Success rates with standard errors and intervals, and paired differences on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
"""Of intervals."""
Interval = tuple[float, float]


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


def clustered_rate(outcomes: Sequence[float] | np.ndarray, clusters: Sequence[int] | np.ndarray) -> Estimate:
    """Mean of outcomes in [0, 1] of which those of one cluster (rollouts from one start) are no independent trials.

    clusters: the cluster of each outcome. n: of outcomes; those that are NaN (abstentions) are left out.

    The error is over clusters, as of a ratio of sums, with a cluster of successes and one of failures added. With one
    outcome in each cluster it is that of `success_rate`; repeats that always agree do not make it smaller.
    """
    values, groups = np.asarray(outcomes, dtype=np.float64), np.asarray(clusters)
    if values.shape != groups.shape:
        raise ValueError(f"found {len(values)} outcomes and {len(groups)} clusters; needed a cluster for each")
    known = np.isfinite(values)
    values, groups = values[known], groups[known]
    if not len(values):
        return Estimate(math.nan, math.nan, 0)
    _, places = np.unique(groups, return_inverse=True)
    sizes = np.bincount(places).astype(np.float64)
    sums, count, size = np.bincount(places, weights=values), len(sizes), sizes.mean()
    centre = (sums.sum() + size) / (sizes.sum() + 2.0 * size)
    residuals = np.concatenate((sums - sizes * centre, [size * (1.0 - centre), -size * centre]))
    error = math.sqrt(float((residuals**2).mean()) / count) / float(size)
    return Estimate(float(values.mean()), error, len(values))


def wilson_interval(outcomes: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of a success rate from outcomes 0 and 1 (Wilson 1927); outcomes that are NaN are left out.

    It stays within 0 and 1, and 10 of 10 are not reported as certain. None where there are no outcomes.
    """
    from scipy.stats import binomtest  # takes a second to import

    values = np.asarray(outcomes, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    found = binomtest(int(values.sum()), len(values)).proportion_ci(confidence, "wilson")
    return float(found.low), float(found.high)


def paired_interval(
    before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of the difference of two success rates, after - before, over pairs of outcomes 0 and 1.

    Half a pair is added to each of the four kinds of pairs (Agresti and Min, Statistics in Medicine 24, 2005), so that
    pairs that are all alike are not reported as certain. Pairs with a NaN are left out; None where no pair is left.
    """
    from scipy.special import ndtri

    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    difference = (second - first)[np.isfinite(first) & np.isfinite(second)]
    if not len(difference):
        return None
    n = len(difference) + 2.0
    wins, losses = float((difference > 0).sum()) + 0.5, float((difference < 0).sum()) + 0.5
    mean = (wins - losses) / n
    half = float(ndtri(0.5 + confidence / 2.0)) * math.sqrt((wins + losses) / n - mean * mean) / math.sqrt(n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def independent_interval(
    before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of the difference of two success rates, after - before, of trials that are no pairs.

    It is made of the two Wilson intervals (Newcombe, Statistics in Medicine 17, 1998, method 10). Outcomes that are NaN
    are left out; None where one side has none.
    """
    one, other = wilson_interval(before, confidence), wilson_interval(after, confidence)
    if one is None or other is None:
        return None
    first, second = success_rate(before).mean, success_rate(after).mean
    mean = second - first
    low = mean - math.hypot(second - other[0], one[1] - first)
    return low, mean + math.hypot(other[1] - second, first - one[0])


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

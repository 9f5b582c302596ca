"""From which grade on an episode counts as completed: the threshold that parts labelled episodes best.

A threshold is chosen by balanced accuracy (the mean of recall and specificity) or by F1, and lies in the middle of the
widest gap between grades among those that are as good. Episodes without a grade are left out, and counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gymnast_core.estimates import Estimate, area_under_curve, success_rate
from gymnast_core.protocols import Verdict
from gymnast_core.seeds import derive_seed

Criterion = Literal["balanced_accuracy", "f1"]
FEWEST = 5
"""Successes, and failures, that a choice needs."""
RESAMPLES = 200
"""Draws with replacement, on each of which a threshold is chosen and tried on the episodes that were not drawn."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Cut:
    """How well verdicts part episodes. interval: of 95 %, from the errors of recall and specificity."""

    balanced_accuracy: float
    balanced_accuracy_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]
    false_positives: int
    false_negatives: int

    def __str__(self) -> str:
        (low, high), (lower, upper) = self.balanced_accuracy_interval, self.f1_interval
        return (
            f"balanced accuracy {self.balanced_accuracy:.3f} [{low:.2f}, {high:.2f}], F1 {self.f1:.3f} [{lower:.2f}, "
            f"{upper:.2f}], {self.false_positives} false positives, {self.false_negatives} false negatives"
        )


@dataclass(frozen=True)
class Calibration:
    """What grades say of `episodes` episodes of which `successes` were completed.

    area, area_error: AUROC and its standard error; NaN without both outcomes. now: the verdicts as they are. threshold,
    best: the best one by `criterion` and its cut; None where there are too few of either outcome or all grades are
    alike. elsewhere: mean balanced accuracy and F1 of a threshold on episodes that had no part in choosing it; NaN
    where not measured. helps: the grades tell success from failure by more than two standard errors.
    """

    episodes: int
    successes: int
    area: float
    area_error: float
    now: Cut
    threshold: float | None
    best: Cut | None
    elsewhere: tuple[float, float]
    criterion: Criterion = "balanced_accuracy"

    @property
    def gains(self) -> bool:
        """Whether the best threshold parts these episodes better than the verdicts as they are."""
        now = getattr(self.now, self.criterion)
        return self.best is not None and not getattr(self.best, self.criterion) <= now + 1e-9

    @property
    def helps(self) -> bool:
        return bool(self.area - 2 * self.area_error > 0.5)


def calibrate(
    verdicts: Sequence[Verdict], outcomes: Sequence[bool], criterion: Criterion = "balanced_accuracy", seed: int = 0
) -> Calibration | None:
    """The best threshold for graded verdicts; None where no verdict has a grade. Abstentions are left out."""
    graded = [(v, bool(o)) for v, o in zip(verdicts, outcomes, strict=True) if v.grade is not None]
    judged = [(float(v.grade or 0.0), v.completed, o) for v, o in graded if v.completed is not None]
    if not judged:
        return None
    grades = np.array([grade for grade, _, _ in judged])
    said = np.array([completed for _, completed, _ in judged], dtype=bool)
    truth = np.array([outcome for _, _, outcome in judged], dtype=bool)
    area = area_under_curve(grades, truth)
    enough = min(truth.sum(), (~truth).sum()) >= FEWEST and len(set(grades.tolist())) > 1
    threshold = choose_threshold(grades, truth, criterion) if enough else None
    return Calibration(
        episodes=len(judged),
        successes=int(truth.sum()),
        area=area.mean,
        area_error=area.standard_error,
        now=measure_cut(said, truth),
        threshold=threshold,
        best=None if threshold is None else measure_cut(grades >= threshold, truth),
        elsewhere=_elsewhere(grades, truth, criterion, seed) if enough else (math.nan, math.nan),
        criterion=criterion,
    )


def measure_cut(said: np.ndarray, truth: np.ndarray) -> Cut:
    """Verdicts (N,) bool against outcomes (N,) bool; figures are NaN without both outcomes."""
    recall, specificity = success_rate(said[truth].astype(float)), success_rate(~said[~truth] * 1.0)
    positives, negatives = recall.n, specificity.n
    balanced = Estimate(
        (recall.mean + specificity.mean) / 2,
        math.hypot(recall.standard_error, specificity.standard_error) / 2,
        len(truth),
    )
    false_positives, false_negatives = int((said & ~truth).sum()), int((~said & truth).sum())
    hits = positives - false_negatives
    whole = 2 * hits + false_positives + false_negatives
    f1 = 2 * hits / whole if whole else math.nan
    if positives and negatives:  # the delta method: F1 = 2 P r / (P + P r + N (1 - s))
        bottom = positives + hits + false_positives
        by_recall = 2 * positives * (positives + false_positives) / bottom**2
        by_specificity = 2 * hits * negatives / bottom**2
        error = math.hypot(by_recall * recall.standard_error, by_specificity * specificity.standard_error)
    else:
        error = math.nan
    return Cut(
        balanced_accuracy=balanced.mean,
        balanced_accuracy_interval=_interval(balanced.mean, balanced.standard_error),
        f1=f1,
        f1_interval=_interval(f1, error),
        false_positives=false_positives,
        false_negatives=false_negatives,
    )


def choose_threshold(
    grades: np.ndarray, truth: np.ndarray, criterion: Criterion, weights: np.ndarray | None = None
) -> float:
    """The best threshold for grades (N,) of outcomes (N,) bool, both of which must be there, and two grades.

    weights: (N,) how often each episode counts. It is written with as few digits as its gap allows.
    """
    order = np.argsort(grades, kind="stable")
    sorted_grades, success = grades[order], truth[order]
    weight = np.ones(len(grades)) if weights is None else weights[order].astype(np.float64)
    below_success, below_failure = np.cumsum(weight * success), np.cumsum(weight * ~success)
    gaps = np.flatnonzero(np.diff(sorted_grades) > 0)
    hits = below_success[-1] - below_success[gaps]
    if criterion == "f1":
        false_positives = below_failure[-1] - below_failure[gaps]
        quality = 2 * hits / np.maximum(below_success[-1] + hits + false_positives, 1e-12)
    else:
        quality = (hits / below_success[-1] + below_failure[gaps] / below_failure[-1]) / 2
    as_good = gaps[quality >= quality.max() - 1e-9]
    widest = as_good[np.argmax(sorted_grades[as_good + 1] - sorted_grades[as_good])]
    return _between(float(sorted_grades[widest]), float(sorted_grades[widest + 1]))


def _between(low: float, high: float) -> float:
    """A number with few digits, near the middle of the two and equal to neither."""
    middle = (low + high) / 2
    for digits in range(12):
        if low < (value := round(middle, digits)) < high:
            return value
    return high if middle <= low else middle


def _elsewhere(grades: np.ndarray, truth: np.ndarray, criterion: Criterion, seed: int) -> tuple[float, float]:
    """Mean balanced accuracy and F1 of thresholds on the episodes that had no part in choosing them (bootstrap)."""
    generator = np.random.default_rng(derive_seed(seed, "calibration"))
    groups = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    found = []
    for _ in range(RESAMPLES):
        weights = np.zeros(len(grades))
        for group in groups:
            weights[group] = generator.multinomial(len(group), np.full(len(group), 1 / len(group)))
        drawn, left = weights > 0, weights == 0
        if len(set(grades[drawn].tolist())) < 2 or not truth[left].any() or truth[left].all():
            continue
        threshold = choose_threshold(grades[drawn], truth[drawn], criterion, weights[drawn])
        cut = measure_cut(grades[left] >= threshold, truth[left])
        found.append((cut.balanced_accuracy, cut.f1))
    if not found:
        return math.nan, math.nan
    accuracy, f1 = np.mean(found, axis=0)
    return float(accuracy), float(f1)


def _interval(mean: float, error: float) -> tuple[float, float]:
    return max(0.0, mean - NORMAL_95 * error), min(1.0, mean + NORMAL_95 * error)

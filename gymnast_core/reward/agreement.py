"""How far a judge can be trusted: its verdicts against outcomes that are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.estimates import success_rate
from gymnast_core.protocols import Verdict

CALIBRATION_BINS = 5


@dataclass(frozen=True)
class Agreement:
    """Of `episodes` labelled episodes `judged` got a verdict; shares are over the judged ones, NaN where undefined.

    agreement: verdict equals outcome. precision: of the `called` that were called completed, truly completed. recall:
    of the `completed` that truly were, called completed. calibration_error: mean distance between confidence and
    agreement over confidence bins, weighted by their size. bins: (mean confidence, agreement, count) of each bin that
    is not empty.
    """

    episodes: int
    judged: int
    agreement: float
    standard_error: float
    precision: float
    recall: float
    called: int
    completed: int
    false_positives: int
    false_negatives: int
    calibration_error: float
    bins: tuple[tuple[float, float, int], ...]

    def facts(self) -> dict[str, Any]:
        """For a JSON file: None where a figure is undefined."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def __str__(self) -> str:
        if not self.judged:
            return f"no verdict on any of {self.episodes} episodes"
        return (
            f"agreement {self.agreement:.3f} ± {self.standard_error:.3f} (n = {self.judged}), "
            f"precision {_share(self.precision, self.called)}, recall {_share(self.recall, self.completed)}; "
            f"{self.episodes - self.judged} abstentions, {self.false_positives} false positives, "
            f"{self.false_negatives} false negatives, calibration error {self.calibration_error:.3f}"
        )


def _share(value: float, n: int) -> str:
    return f"{value:.3f} (n = {n})" if n else "unknown (n = 0)"


def measure_agreement(verdicts: Sequence[Verdict], outcomes: Sequence[bool]) -> Agreement:
    """Compare verdicts with the outcomes; full marks say completed, abstentions are counted apart."""
    pairs = [(v.completed, o, v.confidence) for v, o in zip(verdicts, outcomes, strict=True) if v.completed is not None]
    said = np.array([pair[0] for pair in pairs], dtype=bool)
    true = np.array([pair[1] for pair in pairs], dtype=bool)
    confidence = np.array([pair[2] for pair in pairs], dtype=np.float64)
    right = said == true
    estimate = success_rate(right.astype(float))
    hits = int((said & true).sum())
    bins = []
    error = 0.0
    places = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    for place in range(CALIBRATION_BINS):
        chosen = places == place
        if chosen.any():
            mean, share = float(confidence[chosen].mean()), float(right[chosen].mean())
            bins.append((mean, share, int(chosen.sum())))
            error += abs(mean - share) * chosen.mean()
    return Agreement(
        episodes=len(outcomes),
        judged=len(pairs),
        agreement=estimate.mean,
        standard_error=estimate.standard_error,
        precision=hits / int(said.sum()) if said.any() else math.nan,
        recall=hits / int(true.sum()) if true.any() else math.nan,
        called=int(said.sum()),
        completed=int(true.sum()),
        false_positives=int((said & ~true).sum()),
        false_negatives=int((~said & true).sum()),
        calibration_error=float(error) if pairs else math.nan,
        bins=tuple(bins),
    )

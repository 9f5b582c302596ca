"""A judge's verdict on a recorded episode, written into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gymnast_core.data.outcome import COMPLETED_AT, FAILURE, OUTCOMES, SUCCESS, UNJUDGED, set_outcome
from gymnast_core.protocols import Verdict


def keep_verdict(
    folder: str | os.PathLike[str], judge: str, verdict: Verdict, facts: Mapping[str, Any] | None = None
) -> int:
    """Write a verdict and further facts into an episode's folder; returns the number of its outcome.

    An abstention is `UNJUDGED`, and nothing is written. verdict.completed_at: counts the episode's frames.

    Raises: DataError when the folder holds no episode, or cannot be written.
    """
    if verdict.score is None:
        return UNJUDGED
    success = bool(verdict.completed)
    outcome = SUCCESS if success else FAILURE
    said: dict[str, Any] = {"outcome_by": judge, "judge": judge, "judge_reason": verdict.reason}
    said.update(judge_confidence=verdict.confidence, judge_score=verdict.score, outcome=OUTCOMES[outcome])
    if success and verdict.completed_at is not None:
        said[COMPLETED_AT] = verdict.completed_at
    if verdict.grade is not None:
        said["judge_grade"] = verdict.grade
    set_outcome(folder, success, {**said, **(facts or {})})
    return outcome

"""The station's own truth as a judge: what the other judges are measured against, and the reward of the upper bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.protocols import Verdict


class TruthJudge:
    """Passes on the success an environment reports, and as progress how far the task has come, where the environment
    says so. Frames alone hold no truth, so judging them is an abstention."""

    name = "truth"
    tells_progress = True

    def frame_indices(self, n_frames: int) -> list[int]:
        """Only the last frame, for the record."""
        return [n_frames - 1]

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """Abstains on every video; see `judge_outcomes`."""
        return [Verdict(None, 0.0, "the station's truth is not in the frames")] * len(videos)

    def judge_outcomes(self, success: np.ndarray, credit: np.ndarray) -> list[Verdict]:
        """Verdicts of outcomes (N,) as an environment reports them: 0 or 1, or NaN where it has none (abstention).

        credit: (N,) 0 to 1, or NaN where the environment tells success alone.
        """
        return [
            Verdict(float(value), 1.0, "the station's own state", progress=(float(come),) if np.isfinite(come) else ())
            if np.isfinite(value)
            else Verdict(None, 0.0, "this environment has no truth of its own")
            for value, come in zip(success, credit, strict=True)
        ]

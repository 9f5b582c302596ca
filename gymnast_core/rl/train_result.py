"""What a training over many starts found: written to result.json, shown by the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainResult:
    """The outcome of one `gymnast train`.

    environment: "imagination", or "station", whose truth was the reward.
    updates: made; chosen_update: the one whose weights were saved. stopped_by: "iterations", "time" or "nothing to
    learn". saved: the adapter or checkpoint, in words, empty where nothing was learned; hindrance: why, then.
    starts: frames that were practised from. trust: in imagination, in words. judge_spent: in words, empty for no bill.
    """

    environment: Literal["imagination", "station"]
    updates: int
    chosen_update: int
    stopped_by: str
    saved: str
    hindrance: str
    starts: int
    trust: str
    run_folder: str
    judge_spent: str
    made_by: str = "gymnast train"

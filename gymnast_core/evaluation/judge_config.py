"""Options of `gymnast judge evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class EvaluateJudgeConfig:
    """Measure a judge against labelled episodes."""

    data: tuple[str, ...]
    """Folders with logged episodes that have an outcome, or hf:OWNER/NAME of the Hugging Face Hub."""
    config: str = "simulated_drawer"
    """Station file, a path or the name of a shipped one, whose judge is measured."""
    checkpoint: str = ""
    """Folder of a learned judge instead of the station's."""
    gate: bool = False
    """Measure the judge of the gate (`adaptation.gate_judge`) instead."""
    criterion: Literal["balanced_accuracy", "f1"] = "balanced_accuracy"
    """What the best threshold of a graded judge is best at."""
    run: str = ""
    """Run folder; empty: a new one below runs/evaluate_judge."""
    limit: Annotated[int, Field(ge=1)] = 100000
    """At most this many episodes are judged (a vision-language model costs money)."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Episodes judged side by side."""

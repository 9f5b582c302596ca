"""Judges: a VLM behind an OpenAI-compatible API, a learned classifier, the station's truth."""

from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.truth import TruthJudge

__all__ = ["TruthJudge", "load_judge"]

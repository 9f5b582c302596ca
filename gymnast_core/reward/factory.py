"""The judge a station's file asks for."""

from __future__ import annotations

import os
from pathlib import Path

from gymnast_core.config import StationConfig, find_model
from gymnast_core.protocols import Judge
from gymnast_core.reward.classifier import load_classifier
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.reward.vlm import TaskQuestion, VLMJudge


def load_judge(
    station: StationConfig,
    config_path: str | os.PathLike[str] | None = None,
    run_folder: str | os.PathLike[str] | None = None,
) -> Judge:
    """The judge of `station.judge`.

    config_path: the station file, beside which a relative checkpoint is looked up first.
    run_folder: where a VLM's raw answers are kept; its cache of answers is shared by all runs (runs/judge_cache).

    Raises: ConfigError (no such folder), CheckpointError (damaged), JudgeError (no key).
    """
    config = station.judge
    if config.kind == "truth":
        return TruthJudge()
    if config.kind == "classifier":
        return load_classifier(find_model(config.checkpoint, config_path), station.models.device)
    questions = {
        task.instruction: TaskQuestion(task.question, task.partial_credit_criteria) for task in station.tasks.values()
    }
    raw = Path(run_folder) / "judge_answers.jsonl" if run_folder is not None else None
    return VLMJudge(config, questions, cache=Path("runs") / "judge_cache", raw=raw)

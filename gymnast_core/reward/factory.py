"""The judge a station's file asks for."""

from __future__ import annotations

import dataclasses
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
    rank: int = 0,
    ranks: int = 1,
) -> Judge:
    """The judge of `station.judge`.

    config_path: the station file, beside which a relative checkpoint is looked up first.
    run_folder: where a VLM's raw answers are kept; its cache of answers is shared by all runs (runs/judge_cache).
    rank, ranks: this process among those of the run. A VLM's spend limit and requests at once are divided by them.

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
    name = f"judge_answers_{rank}.jsonl" if rank else "judge_answers.jsonl"
    raw = Path(run_folder) / name if run_folder is not None else None
    config = dataclasses.replace(
        config, max_dollars=config.max_dollars / ranks, concurrency=max(1, config.concurrency // ranks)
    )
    return VLMJudge(config, questions, cache=Path("runs") / "judge_cache", raw=raw)

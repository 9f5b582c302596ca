"""The judge a station's file asks for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from gymnast_core.config import JudgeConfig, StationConfig, find_model
from gymnast_core.files import is_number, read_json_lines
from gymnast_core.protocols import Judge
from gymnast_core.reward.prompts import TaskQuestion, read_prompt

CACHE = Path("runs") / "judge_cache"
"""Answers of all runs."""


def load_judge(
    station: StationConfig,
    config_path: str | os.PathLike[str] | None = None,
    run_folder: str | os.PathLike[str] | None = None,
    rank: int = 0,
    ranks: int = 1,
    other: JudgeConfig | None = None,
    answers: str = "judge_answers",
    criteria: Mapping[str, str] | None = None,
) -> Judge:
    """The judge of `station.judge`, or an `other` one for the same tasks.

    config_path: the station file, beside which a relative checkpoint or prompt is looked up first.
    run_folder: where raw answers are kept, as `answers`.jsonl; the cache of servers' answers is shared by all runs
        (runs/judge_cache).
    criteria: when half a point is given, by instruction, in place of what the station file says of its tasks.
    rank, ranks: this process among those of the run. A server's spend limits, rate and requests at once are divided by
        them; what a resumed run has spent already counts.

    Raises: ConfigError (no such folder or prompt), CheckpointError (damaged), JudgeError (no key, no server, a package
    is missing).
    """
    config = other or station.judge
    if config.kind == "truth":
        from gymnast_core.reward.truth import TruthJudge

        return TruthJudge()
    if config.kind == "classifier":
        from gymnast_core.reward.classifier import load_classifier

        folder = find_model(config.checkpoint, config_path)
        return load_classifier(folder, station.models.device, config.threshold)
    raw, spent = None, (0, 0)
    if run_folder is not None:
        raw = Path(run_folder) / (f"{answers}_{rank}.jsonl" if rank else f"{answers}.jsonl")
        spent = spent_before(Path(run_folder), answers, ranks)
    questions = _questions(station, criteria or {})
    template = read_prompt(config.prompt, config_path) if config.prompt else ""
    if config.kind == "transformers":
        from gymnast_core.reward.local import LocalJudge

        folder = find_model(config.checkpoint, config_path)
        return LocalJudge(config, folder, station.models.device, questions, raw, template)
    config = _share(config, ranks)
    if config.kind == "robometer":
        from gymnast_core.reward.robometer import RobometerJudge

        return RobometerJudge(config, CACHE, raw)
    from gymnast_core.reward.vlm import VLMJudge

    return VLMJudge(config, questions, cache=CACHE, raw=raw, spent=spent, template=template)


def _questions(station: StationConfig, criteria: Mapping[str, str]) -> dict[str, TaskQuestion]:
    """What is asked besides the instruction, by instruction."""
    found = {
        task.instruction: TaskQuestion(task.question, task.partial_credit_criteria) for task in station.tasks.values()
    }
    for instruction, text in criteria.items():
        found[instruction] = TaskQuestion(found.get(instruction, TaskQuestion()).question, text)
    return found


def _share(config: JudgeConfig, ranks: int) -> JudgeConfig:
    """What one of `ranks` processes may spend and ask."""
    return dataclasses.replace(
        config,
        max_dollars=config.max_dollars / ranks,
        max_total_tokens=-(-config.max_total_tokens // ranks),
        requests_per_minute=config.requests_per_minute / ranks,
        concurrency=max(1, config.concurrency // ranks),
    )


def spent_before(run_folder: Path, answers: str, ranks: int) -> tuple[int, int]:
    """Tokens (in, out) that the run to be resumed has taken in all its processes, divided among those of now."""
    lines = [line for path in sorted(run_folder.glob(f"{answers}*.jsonl")) for line in read_json_lines(path)]
    counts = [
        sum(int(line[name]) for line in lines if is_number(line.get(name)))
        for name in ("input_tokens", "output_tokens")
    ]
    return counts[0] // ranks, counts[1] // ranks

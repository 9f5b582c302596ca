"""Success of a policy on the simulated station, without ROS: `gymnast policy evaluate`.

The trials are episodes, collected like any others (and resumable), then counted by task with standard errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from gymnast_core.config import StationConfig, load_config
from gymnast_core.estimates import Estimate, success_rate
from gymnast_core.evaluation.collect import collect_episodes
from gymnast_core.evaluation.collect_config import CollectConfig
from gymnast_core.evaluation.policy_config import EvaluatePolicyConfig
from gymnast_core.evaluation.policy_page import Trial, read_trials, write_policy_page
from gymnast_core.progress import console, say
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.station_file import find_station_file


def evaluate_policy(options: EvaluatePolicyConfig) -> int:
    """Print and write success rates by task; returns 0, or 130 when interrupted.

    Raises: ConfigError, CheckpointError, DataError.
    """
    _refuse_other_trials(options)
    station = load_config(StationConfig, find_station_file(options.config))
    run = RunFolder(options.run, options, tensorboard=False)
    code = collect_episodes(
        CollectConfig(
            out=str(run.path / "episodes"),
            config=options.config,
            policy=options.policy,
            episodes=options.trials * len(options.tasks or station.tasks),
            tasks=options.tasks,
            first_seed=options.first_seed,
            horizon=options.horizon,
            after_success=0,
            temperature=options.temperature,
            look_ahead=options.look_ahead,
            workers=options.workers,
        )
    )
    if code:
        return code
    trials = read_trials(run.path / "episodes")
    rates = success_by_task(trials)
    table = Table("task", "success", "standard error", "trials")
    for task, rate in rates.items():
        table.add_row(task, f"{rate.mean:.2f}", f"{rate.standard_error:.2f}", str(rate.n))
    console.print(table)
    run.write_result({task: vars(rate) for task, rate in rates.items()})
    say(f"report: {write_policy_page(run.path, options, trials, rates)}")
    return 0


def _refuse_other_trials(options: EvaluatePolicyConfig) -> None:
    """Trials of two policies in one folder would be counted as one's. Raises: ConfigError naming what differs."""
    path = Path(options.run) / "config.yaml"
    if not path.exists():
        return
    then = dataclasses.asdict(load_config(EvaluatePolicyConfig, path))
    now = {name: v for name, v in dataclasses.asdict(options).items() if name not in ("run", "trials", "workers")}
    refuse_other_options(options.run, then, now)


def success_by_task(trials: Sequence[Trial]) -> dict[str, Estimate]:
    """Success rate by task and over all ("all"); unjudged trials are left out."""
    outcomes: dict[str, list[float]] = {"all": []}
    for trial in trials:
        outcome = float("nan") if trial.success is None else float(trial.success)
        outcomes.setdefault(trial.task, []).append(outcome)
        outcomes["all"].append(outcome)
    return {task: success_rate(values) for task, values in sorted(outcomes.items())}

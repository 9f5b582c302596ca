"""`gymnast adapter evaluate`: an adapted policy against its base on the simulated station, without ROS.

Trials are paired: the same seeds give the same resets, so that the difference is known better than either success rate.
Scored by the station's truth; greedy as the executor acts, or sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from gymnast_core.estimates import Estimate, paired_difference, success_rate
from gymnast_core.evaluation.adapter_config import CompareConfig
from gymnast_core.progress import busy, console, progress_bar, say
from gymnast_core.protocols import Policy, Start
from gymnast_core.reporting.media import film_strip, sheet, write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, write_report
from gymnast_core.reward.factory import load_judge
from gymnast_core.robot.strain import ArmStrain, total
from gymnast_core.rollout.ending import Ending, station_ending
from gymnast_core.rollout.look_ahead import open_look_ahead
from gymnast_core.rollout.trials import Trial, TrialLog, run_trials
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile, open_station

SIDE_BY_SIDE = 16
SHOWN = 3


def compare_adapter(config: CompareConfig) -> int:
    """Run the trials of every task, without and with the adapter, print and report them."""
    from gymnast_core.policy import adapters
    from gymnast_core.policy.openvla import load_policy
    from gymnast_core.simulation.environment import StationEnvironment

    opened = open_station(config.config, config.policy, device=config.device)
    station, models = opened.config, opened.config.models
    run = RunFolder(config.run or f"runs/evaluate_adapter/{datetime.now():%Y%m%d_%H%M%S}", config, tensorboard=False)
    tasks = {name: station.task(name) for name in (config.tasks or sorted(station.tasks))}
    with busy("loading policy and adapter"):
        policy = load_policy(opened.policy_folder, models.unnorm_key, models.device)
        adapters.AdapterStore(config.adapters or models.adapters).load(policy, config.adapter, for_study=True)
    names = ["base", config.adapter]
    actor: Policy = policy
    if config.look_ahead:
        actor = open_look_ahead(policy, str(opened.path), config.look_ahead, models.device, str(run.path))
    environment = StationEnvironment(station, SIDE_BY_SIDE)
    ending = _ending(config, opened, run)
    trials: dict[tuple[str, str], list[Trial]] = {}
    with progress_bar() as bar:
        for name in names:
            adapters.activate(policy, *([] if name == "base" else [name]))
            for task, settings in tasks.items():
                starts = [
                    Start(settings.instruction, None, task, derive_seed(config.seed, "trial", task, number))
                    for number in range(config.trials)
                ]
                line = bar.add_task(f"{task}, {name}", total=config.trials, note="")
                facts: dict[str, Any] = {"policy": str(models.policy), "adapter": "" if name == "base" else name}
                facts |= {"station": station.name, "look_ahead": config.look_ahead}
                episodes = run.path / "episodes" / name
                log = TrialLog(lambda k, start, folder=episodes: folder / f"{start.task}_{k:04d}", facts)  # type: ignore[misc]
                trials[name, task] = run_trials(
                    actor,
                    environment,
                    starts,
                    settings.max_steps,
                    config.temperature,
                    log if config.log else None,
                    lambda count, line=line: bar.update(line, completed=count),  # type: ignore[misc]
                    ending=ending,
                )
    environment.close()
    _report(run, config, names, tasks, trials)
    return 0


def _ending(config: CompareConfig, opened: StationFile, run: RunFolder) -> Ending:
    if config.ending != "station":
        return config.ending
    station = opened.config
    judge = load_judge(station, opened.path, run.path) if station.executor.stop_at_success else None
    return station_ending(station.executor, judge)


def _report(
    run: RunFolder,
    config: CompareConfig,
    names: Sequence[str],
    tasks: Iterable[str],
    trials: dict[tuple[str, str], list[Trial]],
) -> None:
    result: dict[str, object] = {"trials": config.trials, "temperature": config.temperature, "seed": config.seed}
    result |= {"look_ahead": config.look_ahead, "ending": config.ending}
    bars, figures, facts = [], [], []
    for task in tasks:
        estimates: list[Estimate] = []
        for name in names:
            done = trials[name, task]
            estimate = success_rate([float(trial.success) for trial in done])
            estimates.append(estimate)
            tone = "muted" if name == "base" else "good"
            bars.append(Bar(f"{task}, {name}"[:34], estimate.mean, estimate.standard_error, estimate.n, tone))  # type: ignore[arg-type]
            result[f"{task}/{name}"] = {
                "success": estimate.mean,
                "standard_error": estimate.standard_error,
                "outcomes": [trial.success for trial in done],
                "mean_steps": float(np.mean([trial.steps for trial in done])),
                "trials_with_safety_events": sum(any(step.events for step in trial.strain) for trial in done),
                "strain": [dataclasses.asdict(ArmStrain.of(trial.strain)) for trial in done],
            }
            cost = total(ArmStrain.of(trial.strain) for trial in done).per_trial(len(done))
            console.print(f"{task}, {name}: {estimate}; {cost}", highlight=False)
            facts.append((f"{task}, {name}: cost to the arm", cost))
            shown = [t for t in done if t.success][:SHOWN] + [t for t in done if not t.success][:SHOWN]
            rows = [
                (f"{t.steps} steps, seed {t.start.seed}", film_strip(t.frames, 8, 112, float(t.success))) for t in shown
            ]
            file = f"media/{task}_{name}.png"
            write_picture(run.path / file, sheet(rows))
            figures.append(Figure(file, f"{task}, {name}"))
        before, after = (np.array([float(t.success) for t in trials[name, task]]) for name in names)
        change = paired_difference(before, after)
        facts.append(
            (f"{task}: change", f"{change.mean:+.3f} ± {change.standard_error:.3f} on the same {change.n} seeds")
        )
        result[f"{task}/difference"] = {"mean": change.mean, "standard_error": change.standard_error}
        console.print(f"{task}: change {change}", highlight=False)
    run.write_result(result)
    how = "greedy" if config.temperature == 0 else f"sampled at temperature {config.temperature:g}"
    if config.look_ahead:
        how = f"{config.look_ahead} candidates imagined before each chunk"
    sections = [
        Section(
            "Success on the simulated station",
            f"{config.trials} trials per task, {how}.",
            facts=tuple(facts),
            bars=tuple(bars),
        ),
        Section("Trials", figures=tuple(figures)),
    ]
    write_report(run.path, "Policy trials", sections)
    say(f"report: {run.path / 'report.html'}")

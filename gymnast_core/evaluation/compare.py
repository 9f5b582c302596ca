"""`gymnast evaluate adapter`: an adapted policy against its base on the simulated station, without ROS.

Trials are paired: the same seeds give the same resets, so that the difference is known better than either success rate.
Scored by the station's truth; greedy as the executor acts, or sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gymnast_core.config import NotNegative, Seed, StationConfig, find_model, load_config
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.collect import Plan
from gymnast_core.graph import find_station_file
from gymnast_core.progress import console, progress_bar
from gymnast_core.protocols import Environment, Policy, Start, TrainablePolicy
from gymnast_core.reporting.media import film_strip, sheet, write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, write_report
from gymnast_core.reporting.statistics import Estimate, paired_difference, success_rate
from gymnast_core.run_folder import RunFolder, derive_seed

SIDE_BY_SIDE = 16
SHOWN = 3


@dataclass(frozen=True)
class CompareConfig:
    """Trials of a base policy and of its adapter on the same resets of the simulated station."""

    adapter: str
    """Name of the adapter."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    tasks: tuple[str, ...] = ()
    """Tasks to try; none: all of the station."""
    trials: Annotated[int, Field(ge=1)] = 100
    """Trials of each task."""
    policy: str = ""
    """Policy checkpoint instead of the station's."""
    adapters: str = ""
    """Folder of adapters instead of the station's."""
    temperature: NotNegative = 0.0
    """0: greedy, as the executor acts."""
    look_ahead: Annotated[int, Field(ge=0, le=1024)] = 0
    """Sampled candidates that both imagine before each chunk, the best of which is executed, as the station file's
    `look_ahead` says (`temperature` then plays no part); 0: act at once."""
    log: bool = False
    """Keep every episode in the run folder."""
    run: str = ""
    """Run folder; empty: a new one below runs/evaluate_adapter."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides the resets and whatever is sampled; both policies get the same."""


@dataclass(frozen=True)
class Trial:
    """One trial: its start, whether it succeeded, its steps, names of safety events, and frames (n, H, W, 3) of it."""

    start: Start
    success: bool
    steps: int
    safety_events: tuple[str, ...]
    frames: np.ndarray


def _nothing_to_begin(seed: int) -> None:
    """A policy that acts at once remembers nothing of the trial before."""


def run_trials(
    policy: Policy,
    environment: Environment,
    starts: Sequence[Start],
    max_steps: int,
    temperature: float = 0.0,
    log: Path | None = None,
    facts: dict[str, Any] | None = None,
    tick: Callable[[int], None] | None = None,
    begin: Callable[[int], None] = _nothing_to_begin,
) -> list[Trial]:
    """One trial a start, ended by success or after `max_steps`. log: folder that every episode is written to.

    tick: called with the count of trials finished. begin: called with the first one's seed before each batch of trials.
    """
    trials: list[Trial] = []
    size = max(1, environment.max_rollouts)
    for first in range(0, len(starts), size):
        batch = list(starts[first : first + size])
        begin(batch[0].seed)
        frames = environment.reset(batch)
        commanded: list[list[np.ndarray]] = [[] for _ in batch]
        executed: list[list[np.ndarray]] = [[] for _ in batch]
        events: list[list[str]] = [[] for _ in batch]
        ended = np.zeros(len(batch), dtype=bool)
        done = np.zeros(len(batch), dtype=int)
        for chunk in range(-(-max_steps // policy.chunk_length)):
            steps = min(policy.chunk_length, max_steps - chunk * policy.chunk_length)
            instructions = [start.instruction for start in batch]
            if temperature > 0 and isinstance(policy, TrainablePolicy):
                seeds = [derive_seed(start.seed, "trial", chunk) for start in batch]
                actions = policy.sample(frames, instructions, temperature, seeds).actions[:, :steps]
            else:
                actions = policy.act(frames, instructions)[:, :steps]
            result = environment.step(actions)
            frames = result.frames
            for row in np.flatnonzero(~ended).tolist():
                commanded[row].extend(actions[row])
                executed[row].extend(result.executed[row])
                events[row].extend(result.safety_events[row])
                done[row] += steps
            ended |= result.success >= 1.0
            if ended.all():
                break
        count = int(done.max()) + 1
        indices = list(range(count)) if log is not None else sorted({*_spread(count), *done.tolist()})
        video = environment.video(indices)
        for row, start in enumerate(batch):
            shown = video[row][[place for place, index in enumerate(indices) if index <= done[row]]]
            trials.append(Trial(start, bool(ended[row]), int(done[row]), tuple(events[row]), shown))
            if log is not None:
                folder = log / f"{start.task or 'trial'}_{len(trials) - 1:04d}"
                _write(folder, trials[-1], commanded[row], executed[row], facts or {})
        if tick is not None:
            tick(len(trials))
    return trials


def compare_adapter(config: CompareConfig, plan: Plan | None = None) -> int:
    """Run the trials of every task, without and with the adapter, print and report them.

    plan: wraps the policy where config.look_ahead is not 0. Raises: ConfigError where it is missing then.
    """
    from gymnast_core.policy import adapters
    from gymnast_core.policy.openvla import load_policy
    from gymnast_core.station.environment import StationEnvironment

    path = find_station_file(config.config)
    station = load_config(StationConfig, path)
    models = dataclasses.replace(
        station.models, policy=config.policy or station.models.policy, device=config.device or station.models.device
    )
    run = RunFolder(config.run or f"runs/evaluate_adapter/{datetime.now():%Y%m%d_%H%M%S}", config, tensorboard=False)
    tasks = {name: station.task(name) for name in (config.tasks or sorted(station.tasks))}
    policy = load_policy(find_model(models.policy, path), models.unnorm_key, models.device)
    adapters.AdapterStore(config.adapters or models.adapters).load(policy, config.adapter)
    names = ["base", config.adapter]
    actor: Policy = policy
    begin: Callable[[int], None] = _nothing_to_begin
    side_by_side = SIDE_BY_SIDE
    if config.look_ahead:
        if plan is None:
            raise ConfigError(f"look_ahead: found {config.look_ahead} with no plan; needed 0")
        thinking = plan(policy, str(path), config.look_ahead, models.device, str(run.path))
        actor, begin, side_by_side = thinking, thinking.begin, 1  # one at a time: a trial's seed decides its thoughts
    environment = StationEnvironment(station, side_by_side)
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
                facts = {"policy": str(models.policy), "adapter": "" if name == "base" else name}
                trials[name, task] = run_trials(
                    actor,
                    environment,
                    starts,
                    settings.max_steps,
                    config.temperature,
                    run.path / "episodes" / name if config.log else None,
                    {**facts, "station": station.name, "look_ahead": config.look_ahead},
                    lambda count, line=line: bar.update(line, completed=count),  # type: ignore[misc]
                    begin,
                )
    environment.close()
    _report(run, config, names, tasks, trials)
    return 0


def _report(
    run: RunFolder,
    config: CompareConfig,
    names: Sequence[str],
    tasks: Iterable[str],
    trials: dict[tuple[str, str], list[Trial]],
) -> None:
    result: dict[str, object] = {"trials": config.trials, "temperature": config.temperature, "seed": config.seed}
    result["look_ahead"] = config.look_ahead
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
                "trials_with_safety_events": sum(bool(trial.safety_events) for trial in done),
            }
            console.print(f"{task}, {name}: {estimate}", highlight=False)
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
            f"{config.trials} trials a task, {how}.",
            facts=tuple(facts),
            bars=tuple(bars),
        ),
        Section("Trials", figures=tuple(figures)),
    ]
    write_report(run.path, "Policy trials", sections)
    console.print(f"report: {run.path / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _spread(count: int, wanted: int = 8) -> list[int]:
    """`wanted` indices evenly from 0 to count - 1."""
    return sorted(set(np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()))


def _write(
    folder: Path, trial: Trial, commanded: Sequence[np.ndarray], executed: Sequence[np.ndarray], facts: dict[str, Any]
) -> None:
    metadata = {**facts, "task": trial.start.task, "seed": trial.start.seed, "source": "station"}
    with EpisodeWriter(folder, trial.start.instruction, metadata) as writer:
        writer.add_observation(trial.frames[0])
        for step, (action, done) in enumerate(zip(commanded, executed)):
            writer.add_step(action, done)
            writer.add_observation(trial.frames[step + 1], stamp_ns=(step + 1) * 200_000_000)
        writer.finish(success=trial.success, outcome_by="station")

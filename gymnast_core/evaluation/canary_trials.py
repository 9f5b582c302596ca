"""`gymnast canary`: canary trials of an adapter on the simulated station, without ROS."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gymnast_core.commands import gymnast, name_next
from gymnast_core.config import CanaryConfig, StationConfig
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.canary import Canary, CanaryResult, pairs_of
from gymnast_core.evaluation.canary_config import DEFAULT_TRIALS, CanaryOptions
from gymnast_core.evaluation.canary_page import write_canary_page
from gymnast_core.evaluation.session import read_records
from gymnast_core.progress import busy, say
from gymnast_core.protocols import Policy
from gymnast_core.reward.factory import load_judge
from gymnast_core.run_folder import RunFolder
from gymnast_core.station_file import open_station


def canary(options: CanaryOptions) -> int:
    """Run, report and decide; 0 when the adapter acts from now on, 1 when it was rolled back.

    Raises: ConfigError, CheckpointError, DataError.
    """
    from gymnast_core.policy import adapters
    from gymnast_core.policy.openvla import load_policy

    opened = open_station(options.config, options.policy, device=options.device)
    station = opened.config
    if station.simulation is None:
        raise ConfigError(f"{opened.path}: has no simulation section; on a real station use `Practise` with a canary")
    config = settings_of(options, station)
    store = adapters.AdapterStore(options.adapters or station.models.adapters)
    task = options.task or _task_of(store.read(options.adapter).task, station)
    station.task(task)
    run = RunFolder(options.run or f"runs/canary/{options.adapter}", options, tensorboard=False)
    with busy("loading policy and adapter"):
        policy = load_policy(opened.policy_folder, station.models.unnorm_key, station.models.device)
        store.load(policy, options.adapter)

    def choose(name: str) -> Policy:
        adapters.activate(policy, *([] if name == "base" else [name]))
        return policy

    judge = load_judge(station, opened.path, run.path) if station.executor.stop_at_success else None
    from gymnast_core.evaluation.simulated_bench import SimulatedBench  # a lab with its own arm has no simulator

    bench = SimulatedBench(station, choose, run.path / "episodes" if options.log else None, judge=judge)
    others = [name for name in sorted(station.tasks) if name != task] if config.other_trials else []
    trial = Canary(
        bench, config, options.adapter, task, others, store.folder(options.adapter), run.path, options.seed, say=say
    )
    try:
        result = trial()
    finally:
        bench.close()
    say(f"report: {publish_canary(run.path, config, result)}")
    if result.state == "rolled back" and options.log:
        name_next(gymnast("learn", config=opened.path, data=run.path / "episodes", run=run.path / "learn"))
    return 0 if result.state != "rolled back" else 1


def settings_of(options: CanaryOptions, station: StationConfig) -> CanaryConfig:
    """The station's canary section with what the command line gives. Raises: ConfigError for an unknown `undecided`."""
    if options.undecided not in ("", "base", "adapter"):
        raise ConfigError(f"undecided: found {options.undecided!r}, allowed are base and adapter")
    own = station.canary
    return dataclasses.replace(
        own,
        trials=options.trials or own.trials or DEFAULT_TRIALS,
        other_trials=own.other_trials if options.other_trials is None else options.other_trials,
        alpha=options.alpha or own.alpha,
        undecided=options.undecided or own.undecided,  # type: ignore[arg-type]
    )


def _task_of(instruction: str, station: StationConfig) -> str:
    found = [name for name, task in station.tasks.items() if task.instruction == instruction]
    if not found:
        raise ConfigError(
            f"task: the adapter was made for '{instruction}', which is no task of station '{station.name}' "
            f"({', '.join(sorted(station.tasks))}); name one with --task"
        )
    return found[0]


def publish_canary(run: Path, config: CanaryConfig, result: CanaryResult) -> Path:
    """Write the page of ended canary trials into their folder. Raises: DataError."""
    records = read_records(run / "task")
    pairs = pairs_of(records[: len(records) // 2 * 2], result.adapter)
    return write_canary_page(run, config, result, pairs)

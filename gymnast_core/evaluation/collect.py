"""Collect episodes from the simulated station with a scripted, random or learned policy: `gymnast data collect`.

A collection is resumable: episode k of a folder always has seed `first_seed + k`, and finished ones are passed over.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from gymnast_core.commands import gymnast, name_next
from gymnast_core.config import SCRIPTED_POLICIES, StationConfig, load_config
from gymnast_core.data.episode import iterate_episodes, read_header
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.collect_config import CollectConfig
from gymnast_core.locks import lock_folder
from gymnast_core.progress import console, interruptible, progress_bar, worker_processes
from gymnast_core.protocols import Policy, Start
from gymnast_core.rollout.trials import TrialLog, run_trials
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.expert import ExpertPolicy, MixedPolicy, RandomPolicy
from gymnast_core.station_file import find_station_file

OWN_NAME = re.compile(r"episode_\d{6,}")
"""Folders that collecting writes; a recorder's, in the same place, are left alone."""


def collect(options: CollectConfig) -> int:
    """`gymnast data collect`: the episodes, and what comes next. Returns and raises as `collect_episodes` does."""
    code = collect_episodes(options)
    if not code:
        station = load_config(StationConfig, find_station_file(options.config))
        name_next(gymnast("judge train", data=options.out, out=Path("runs/judge") / station.name))
    return code


def collect_episodes(options: CollectConfig) -> int:
    """Write the episodes; returns 0, or 130 when interrupted (finished episodes stay).

    Raises: ConfigError for a wrong station or task, or for looking ahead with a scripted policy.
    """
    options = dataclasses.replace(options, config=str(find_station_file(options.config)))
    station = load_config(StationConfig, options.config)
    if station.simulation is None:
        raise ConfigError(f"{options.config}: has no simulation section; only simulated stations collect by themselves")
    for task in options.tasks:
        station.task(task)
    if options.policy not in SCRIPTED_POLICIES:
        from gymnast_core.policy.load import check_policy

        check_policy(options.policy, options.config)
    if options.look_ahead and options.policy in SCRIPTED_POLICIES:
        raise ConfigError(
            f"look_ahead: found {options.look_ahead} with policy {options.policy}; needed 0, or a learned policy"
        )
    root = Path(options.out)
    root.mkdir(parents=True, exist_ok=True)
    _lock = lock_folder(root)  # another collection would delete what this one is writing
    done = 0
    for folder in list(iterate_episodes(root)):
        if read_header(folder).get("status") == "complete":
            done += 1
        elif folder.parent == root and OWN_NAME.fullmatch(folder.name):
            shutil.rmtree(folder)
    pending = _seeds(options, root)
    with interruptible() as stop, progress_bar() as bar, worker_processes(options.workers) as pool:
        row = bar.add_task(f"collecting {options.policy}", total=options.episodes, completed=done, note="")
        running: set[Future[tuple[bool, bool]]] = set()
        successes = tried = 0
        while done < options.episodes and not stop:
            while len(running) < 2 * options.workers and (
                options.keep == "successes" or done + len(running) < options.episodes
            ):
                running.add(pool.submit(_collect_one, options, station, next(pending)))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                kept, success = future.result()
                tried += 1
                successes += success
                done += kept
            bar.update(row, completed=min(done, options.episodes), note=f"success {successes / tried:.2f}")
        for future in running:
            future.cancel()
    if stop:
        return 130
    console.print(f"{done} episodes in {root}", highlight=False)
    return 0


def _seeds(options: CollectConfig, root: Path) -> Iterator[int]:
    """Seeds without an episode yet."""
    index = 0
    while True:
        if not (root / f"episode_{options.first_seed + index:06d}").exists():
            yield options.first_seed + index
        index += 1


_cache: dict[str, Any] = {}


def _collect_one(options: CollectConfig, station: StationConfig, seed: int) -> tuple[bool, bool]:
    """In a worker: one episode; returns whether it was kept and whether it succeeded."""
    if "environment" not in _cache:
        os.environ.setdefault("LP_NUM_THREADS", "1")
        environment = StationEnvironment(station)
        _cache.update(policy=_make_policy(options, station, environment), environment=environment)
    tasks = options.tasks or tuple(sorted(station.tasks))
    task = station.task(name := tasks[seed % len(tasks)])
    scripted = options.policy in SCRIPTED_POLICIES
    facts = {
        "station": station.name,
        "station_file": options.config,
        "policy": options.policy,
        **({} if scripted else {"temperature": options.temperature}),
        "look_ahead": options.look_ahead,
    }
    log = TrialLog(lambda _, start: Path(options.out) / f"episode_{start.seed:06d}", facts, options.keep == "successes")
    (trial,) = run_trials(
        _cache["policy"],
        _cache["environment"],
        [Start(task.instruction, task=name, seed=seed)],
        options.horizon or task.max_steps,
        0.0 if scripted or options.look_ahead else options.temperature,
        log,
        after_success=options.after_success,
    )
    return trial.kept, trial.success


def _make_policy(options: CollectConfig, station: StationConfig, environment: StationEnvironment) -> Policy:
    expert = ExpertPolicy(environment, options.noise, options.slip, options.miss)
    if options.policy == "expert":
        return expert
    if options.policy == "random":
        return RandomPolicy()
    if options.policy == "mixed":
        return MixedPolicy(expert, RandomPolicy())
    import torch

    from gymnast_core.policy.load import open_policy
    from gymnast_core.rollout.look_ahead import open_look_ahead

    torch.set_num_threads(1)
    policy = open_policy(options.policy, station.models.unnorm_key, beside=options.config)
    if not options.look_ahead:
        return policy
    answers = Path(options.out) / "judge" / str(os.getpid())  # of this worker
    return open_look_ahead(policy, options.config, options.look_ahead, run_folder=str(answers))

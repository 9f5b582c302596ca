"""Collect episodes from the simulated station with a scripted, random or learned policy: `gymnast data collect`.

A collection is resumable: episode k of a folder always has seed `first_seed + k`, and finished ones are passed over.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from gymnast_core.config import SCRIPTED_POLICIES, Fraction, NotNegative, Seed, StationConfig, load_config
from gymnast_core.data.episode import EpisodeWriter, iterate_episodes, read_header
from gymnast_core.errors import ConfigError
from gymnast_core.graph import find_station_file
from gymnast_core.progress import console, die_with_parent, interruptible, progress_bar
from gymnast_core.protocols import EpisodicPolicy, Policy, Start, TrainablePolicy
from gymnast_core.run_folder import derive_seed, lock_folder
from gymnast_core.station.environment import StationEnvironment
from gymnast_core.station.expert import ExpertPolicy, MixedPolicy, RandomPolicy

STEP_NS = 200_000_000
OWN_NAME = re.compile(r"episode_\d{6,}")
"""Folders that collecting writes; a recorder's, in the same place, are left alone."""


@dataclass(frozen=True)
class CollectConfig:
    """Options of `gymnast data collect`."""

    out: str
    """Folder that the episode folders are written into."""
    config: str = "simulated_drawer"
    """Station file; it needs a simulation section."""
    policy: str = "expert"
    """"expert", "mixed" (expert and random in turn), "random", a policy checkpoint's folder, recorded actions (.npz),
    or a policy server's address (http://host:port)."""
    episodes: Annotated[int, Field(gt=0)] = 100
    """So many are in `out` at the end, those that lie there or below already included."""
    tasks: tuple[str, ...] = ()
    """Tasks in turn; none: all of the station's."""
    first_seed: Seed = 0
    """Episode k has seed first_seed + k."""
    horizon: Annotated[int, Field(gt=0, le=1000)] = 30
    """Steps of an episode at most."""
    after_success: Annotated[int, Field(ge=0)] = 1000
    """Steps that an episode goes on after the task is done."""
    keep: Literal["all", "successes"] = "all"
    """Keep every episode, or only those that succeed (others are replaced by further seeds)."""
    noise: NotNegative = 0.0
    """Expert: standard deviation added to translations, metres."""
    slip: Fraction = 0.0
    """Expert: chance per step of a three-step slip."""
    miss: Fraction = 0.0
    """Expert: chance per episode of aiming beside the handle."""
    temperature: NotNegative = 1.0
    """Learned policy: sampling temperature; 0 is greedy."""
    look_ahead: Annotated[int, Field(ge=0, le=1024)] = 0
    """Learned policy: sampled candidates imagined before each chunk, the best of which is executed, as the station
    file's `look_ahead` says (`temperature` then plays no part); 0: act at once."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Processes."""


class _Actor(Protocol):
    """What collecting needs of a policy: begin an episode, then act step by step."""

    def begin(self, seed: int) -> None: ...

    def act(self, frames: np.ndarray, instructions: list[str]) -> np.ndarray: ...


class PlanningPolicy(Policy, _Actor, Protocol):
    """A policy that begins each episode with a seed."""


class Plan(Protocol):
    """Makes a policy that thinks before it acts; lies beside this package, so it is handed in."""

    def __call__(
        self, policy: Policy, station_file: str, rollouts: int, device: str = "", run_folder: str = ""
    ) -> PlanningPolicy: ...


class _PolicyActor:
    """Any policy, one chunk after another: sampled where it can be and a temperature is given, greedy otherwise."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        self._policy = policy
        self._temperature = temperature
        self._seed, self._call = 0, 0

    def begin(self, seed: int) -> None:
        self._seed, self._call = seed, 0
        if isinstance(self._policy, EpisodicPolicy):
            self._policy.restart()

    def act(self, frames: np.ndarray, instructions: list[str]) -> np.ndarray:
        self._call += 1
        if self._temperature == 0 or not isinstance(self._policy, TrainablePolicy):
            return self._policy.act(frames, instructions)
        seeds = [derive_seed(self._seed, self._call, row) for row in range(len(frames))]
        return self._policy.sample(frames, instructions, self._temperature, seeds).actions


def collect(options: CollectConfig, plan: Plan | None = None) -> int:
    """Write the episodes; returns 0, or 130 when interrupted (finished episodes stay).

    plan: wraps the policy where options.look_ahead is not 0; a function of a module, because workers import it.

    Raises: ConfigError for a wrong station or task, or for looking ahead without a plan or with a scripted policy.
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
    if options.look_ahead and (plan is None or options.policy in SCRIPTED_POLICIES):
        found = f"policy {options.policy}" if options.policy in SCRIPTED_POLICIES else "no plan"
        raise ConfigError(f"look_ahead: found {options.look_ahead} with {found}; needed 0, or a learned policy")
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
    with interruptible() as stop, progress_bar() as bar, _workers(options.workers) as pool:
        row = bar.add_task(f"collecting {options.policy}", total=options.episodes, completed=done, note="")
        running: set[Future[tuple[bool, bool]]] = set()
        successes = tried = 0
        while done < options.episodes and not stop:
            while len(running) < 2 * options.workers and (
                options.keep == "successes" or done + len(running) < options.episodes
            ):
                running.add(pool.submit(_collect_one, options, station, plan, next(pending)))
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


def _workers(count: int) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to this one: a worker finishes its episode, and then the collection ends."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_begin_worker)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


_cache: dict[str, Any] = {}


def _collect_one(options: CollectConfig, station: StationConfig, plan: Plan | None, seed: int) -> tuple[bool, bool]:
    """In a worker: one episode; returns whether it was kept and whether it succeeded."""
    if "environment" not in _cache:
        os.environ.setdefault("LP_NUM_THREADS", "1")
        environment = StationEnvironment(station)
        _cache.update(actor=_make_actor(options, station, plan, environment), environment=environment)
    environment = _cache["environment"]
    actor: _Actor = _cache["actor"]
    tasks = options.tasks or tuple(sorted(station.tasks))
    task = tasks[seed % len(tasks)]
    instruction = station.task(task).instruction
    frames = environment.reset([Start(instruction, task=task, seed=seed)])
    actor.begin(seed)
    steps: list[tuple[np.ndarray, np.ndarray, tuple[str, ...], bool]] = []
    states, openings = [environment.states()[0]], [float(environment.drawer_openings()[0])]
    left, success = options.after_success, False
    while len(steps) < options.horizon and left >= 0:
        for action in actor.act(frames, [instruction])[0]:
            result = environment.step(action[None, None])
            frames = result.frames
            states.append(environment.states()[0])
            openings.append(float(environment.drawer_openings()[0]))
            success = bool(result.success[0])
            steps.append((action, result.executed[0, 0], result.safety_events[0], success))
            left -= success
            if len(steps) >= options.horizon or left < 0:
                break
    if options.keep == "successes" and not success:
        return False, False
    metadata = {
        "task": task,
        "station": station.name,
        "source": "station",
        "policy": options.policy,
        **({} if options.policy in SCRIPTED_POLICIES else {"temperature": options.temperature}),
        "look_ahead": options.look_ahead,
        "seed": seed,
        "drawer_opening": [round(opening, 5) for opening in openings],
    }
    video = environment.video()[0]
    with EpisodeWriter(Path(options.out) / f"episode_{seed:06d}", instruction, metadata) as writer:
        writer.add_observation(video[0], states[0], 0)
        for index, (action, executed, events, done) in enumerate(steps):
            writer.add_step(action, executed, events, success=done)
            writer.add_observation(video[index + 1], states[index + 1], (index + 1) * STEP_NS)
        writer.finish(success=success, outcome_by="truth")
    return True, success


def _make_actor(
    options: CollectConfig, station: StationConfig, plan: Plan | None, environment: StationEnvironment
) -> _Actor:
    expert = ExpertPolicy(environment, options.noise, options.slip, options.miss)
    if options.policy == "expert":
        return expert
    if options.policy == "random":
        return RandomPolicy()
    if options.policy == "mixed":
        return MixedPolicy(expert, RandomPolicy())
    import torch

    from gymnast_core.policy.load import open_policy

    torch.set_num_threads(1)
    policy = open_policy(options.policy, station.models.unnorm_key, beside=options.config)
    if options.look_ahead and plan is not None:
        answers = Path(options.out) / "judge" / str(os.getpid())  # of this worker
        return plan(policy, options.config, options.look_ahead, run_folder=str(answers))
    return _PolicyActor(policy, options.temperature)

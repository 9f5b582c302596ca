"""`gymnast trials`: policies tried on a station, from the same resets, without ROS on the simulated one or over ROS.

Over ROS the same flow runs in `gymnast_nodes.trials_client`; what differs is the bench that it hands to `Trials`.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from gymnast_core.config import load_config
from gymnast_core.data.outcome import ABORTED
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.evaluation.comparison import (
    ComparisonPlan,
    ComparisonResult,
    Tried,
    compare,
    is_clear,
    keep_plan,
    tried_of,
)
from gymnast_core.evaluation.comparison_page import write_comparison_page
from gymnast_core.evaluation.conditions import Conditions, keep_conditions
from gymnast_core.evaluation.session import MAX_ABORTED_IN_A_ROW, Bench, TrialRecord, TrialSession
from gymnast_core.evaluation.trials_config import TrialsOptions
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.policy.names import REMOTE, read_name
from gymnast_core.policy.server_tokens import lend_tokens, read_tokens
from gymnast_core.progress import interrupts, progress_bar, say
from gymnast_core.results import write_result
from gymnast_core.ros_client import become_ros_client
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.station_file import StationFile, open_station

PRACTISE = "practise"
MAY_CHANGE = ("run", "trials", "repeats", "seconds", "device", "namespace", "where", "policy_token_env")
"""Options that a run may go on with other values of: none of them changes a trial that is on record."""


def trials(options: TrialsOptions) -> int:
    """Run them, or go on with them, and write their page; 0 when all were done, 1 when something broke them off, 130
    when a person did.

    Raises: ConfigError, CheckpointError, DataError.
    """
    flow = Trials(options)
    if flow.where == "graph":
        become_ros_client("trials_client", {**dataclasses.asdict(options), "config": str(flow.station.path)})
    for name in flow.plan.policies:  # before there is a folder
        if name == PRACTISE:
            raise ConfigError("policies: found practise, which needs a station over ROS (--where graph)")
        flow.policies.check(name)
    try:
        from gymnast_core.evaluation.simulated_bench import open_simulated_bench
    except ModuleNotFoundError as error:  # trials over ROS need no simulator
        raise ConfigError(
            f"a simulated station needs the Python package '{error.name}'; `gymnast doctor` says how to get it"
        ) from error
    run = flow.begin()
    with flow.lend(), open_simulated_bench(flow.station, flow.policies, flow.plan.policies, run.path) as bench:
        return flow(bench)


class Trials:
    """One call of `gymnast trials`, up to the bench. Its methods are the steps.

    Raises: ConfigError naming the option that does not fit the station.
    """

    def __init__(self, options: TrialsOptions) -> None:
        self.options = options
        self.station = open_station(options.config, device=options.device)
        self.where = where_of(options, self.station)
        self.plan = plan_of(options, self.station)
        self.policies = StationPolicies(self.station, user_names=True)
        self._tokens = tokens_of(options, self.station)
        self.run: RunFolder | None = None

    def lend(self) -> AbstractContextManager[None]:
        """Let whoever opens the policies, here or in the graph, send each server its token. Raises: DataError."""
        return lend_tokens(self._tokens)

    def begin(self) -> RunFolder:
        """The run folder, new or to go on in.

        Raises: ConfigError when it holds trials of other options, another process works there, or the disk is nearly
            full; DataError.
        """
        name = self.station.config.name
        path = Path(self.options.run or f"runs/trials/{datetime.now():%Y%m%d_%H%M%S}_{name}")
        if (path / "config.yaml").exists():
            then = dataclasses.asdict(load_config(TrialsOptions, path / "config.yaml"))
            now = {name: v for name, v in dataclasses.asdict(self.options).items() if name not in MAY_CHANGE}
            refuse_other_options(path, then, now)
        self.run = RunFolder(path, self.options, tensorboard=False)
        free, needed = shutil.disk_usage(path).free // 10**6, self.station.config.recorder.min_free_mb
        if free < needed:
            raise ConfigError(f"{path}: {free} MB of disk are free, recorder.min_free_mb asks for {needed}")
        return self.run

    def __call__(self, bench: Bench) -> int:
        """Trials from where the run stands, then result.json and report.html, however the trials ended.

        Returns the exit code of the verb. Raises: ConfigError when the folder holds trials under other conditions;
            DataError when it holds other trials, or cannot be written.
        """
        assert self.run is not None, "begin comes first"
        run, planned = self.run.path, self.plan.trials_in_order()
        weights = {name: self.policies.weights(name) for name in self.plan.policies if name != PRACTISE}
        keep_plan(run, self.plan)
        conditions = keep_conditions(run, Conditions.now(self.station, self.where, weights))
        problem, code = "", 0
        with interrupts(), progress_bar() as bar:
            row = bar.add_task("trials", total=len(planned), note="")

            def tell(number: int, phase: str, nested: Any) -> None:
                trial = planned[number]
                bar.update(row, completed=number, note=f"{trial.task}, {trial.policy}: {phase}")

            session = TrialSession(bench, planned, run, self.options.max_steps, tell, warn=say)
            enough = Enough(self.plan, self.options, len(session.records))
            session.until, session.stopped_by = enough, enough.clear(session.records)
            say(f"run folder: {run}; where trials are cut short, `--run {run}` goes on")
            try:
                session()
            except KeyboardInterrupt:
                problem, code = f"interrupted in trial {len(session.records) + 1} of {len(planned)}", 130
            except StationError as error:
                problem, code = f"trial {len(session.records) + 1} of {len(planned)}: {error}", 1
            bar.update(row, completed=len(session.records), note="")
        name, stopped_by = self.station.config.name, problem or session.stopped_by
        tried = tried_of(self.plan, session.records)
        result = publish(run, name, self.plan, tried, stopped_by, conditions.weights)
        return code or (0 if result.success else 1)


def where_of(options: TrialsOptions, station: StationFile) -> str:
    """ "here" or "graph". Raises: ConfigError where a real station is to be simulated."""
    simulated = station.config.simulation is not None
    if not simulated and options.where == "here":
        raise ConfigError(f"{station.path}: has no simulation section; a real station's trials run over ROS")
    return ("here" if simulated else "graph") if options.where == "auto" else options.where


def plan_of(options: TrialsOptions, station: StationFile) -> ComparisonPlan:
    """The plan, checked. Raises: ConfigError naming the option."""
    for name, values in (("policies", options.policies), ("tasks", options.tasks)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ConfigError(f"{name}: found {twice[0]!r} twice; name each once")
    for task in options.tasks:
        station.config.task(task)
    for policy in options.policies:
        read_name(policy)
    if options.stop_when_clear and len(options.policies) < 2:
        raise ConfigError("stop_when_clear: found one policy, needed two or more")
    tasks = options.tasks or tuple(sorted(station.config.tasks))
    return ComparisonPlan(options.policies, tasks, options.trials, options.repeats, options.seed, options.alpha)


def tokens_of(options: TrialsOptions, station: StationFile) -> dict[str, str]:
    """Tokens by the addresses of the policy servers that act or reset. Raises: ConfigError naming the option."""
    named = [*options.policies, station.config.models.policy]
    named += [task.reset_policy for task in station.config.tasks.values()]
    servers = [name for name in named if name.startswith(REMOTE)]
    return read_tokens(options.policy_token_env, servers, "policy_token_env") if options.policy_token_env else {}


def publish(
    run: Path,
    station: str,
    plan: ComparisonPlan,
    tried: Sequence[Tried],
    stopped_by: str = "",
    weights: dict[str, str] | None = None,
) -> ComparisonResult:
    """Print the figures, and write result.json and report.html into `run`. Raises: DataError."""
    result = compare(plan, tried, station, str(run), stopped_by, weights)
    write_result(run, result)
    for line in result.lines():
        say(line)
    say(f"report: {write_comparison_page(run, plan, result, tried)}")
    return result


class Enough:
    """Asked after every trial whether no further one shall begin; its answer is the reason, empty to go on.

    begun: trials on record when this process began; faults and time before it do not count.
    """

    def __init__(self, plan: ComparisonPlan, options: TrialsOptions, begun: int = 0) -> None:
        self._plan, self._options, self._begun = plan, options, begun
        self._began = time.monotonic()

    def __call__(self, records: Sequence[TrialRecord]) -> str:
        return self.clear(records) or self._out_of_time() or self._broken(records)

    def clear(self, records: Sequence[TrialRecord]) -> str:
        """What the trials on record have settled, whoever ran them."""
        return is_clear(self._plan, tried_of(self._plan, records)) if self._options.stop_when_clear else ""

    def _out_of_time(self) -> str:
        limit = self._options.seconds
        return f"time: {limit:g} s are over" if limit is not None and time.monotonic() - self._began > limit else ""

    def _broken(self, records: Sequence[TrialRecord]) -> str:
        """A policy none of whose latest trials came to an end, for instance because its server is down."""
        tried = tried_of(self._plan, records)[self._begun :]
        for policy in self._plan.policies:
            last = [one.record for one in tried if one.policy == policy][-MAX_ABORTED_IN_A_ROW:]
            if len(last) == MAX_ABORTED_IN_A_ROW and all(record.outcome == ABORTED for record in last):
                return f"fault: {len(last)} trials of {policy} in a row were stopped: {last[-1].message}"
        return ""

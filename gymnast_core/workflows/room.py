"""A station's policy and its simulated bench, held for as long as trials run, and then given back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gymnast_core.errors import DataError
from gymnast_core.evaluation.canary import Canary, CanaryResult, hardness, keep_evidence
from gymnast_core.evaluation.session import PlannedTrial, TrialRecord, TrialSession, read_records
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.protocols import Judge, Policy
from gymnast_core.results import RESULT, read_result
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile
from gymnast_core.workflows.transfer_result import Trials

BASE = "base"
Check = Callable[[str], None]
"""Told what is being done, in words; it may raise to end the work between two trials."""


class TrialRoom:
    """Trials and canary trials of a base policy and of adapters on it. `with` closes the bench.

    seeds: names what the resets are for, so that no other trials share them. temperature: of sampling; 0 is greedy.
    log: folder that episodes are kept in. judge: ends them where the station file says so; None: the station's truth.
    """

    def __init__(
        self,
        station: StationFile,
        seeds: str,
        temperature: float,
        log: Path | None = None,
        judge: Judge | None = None,
    ) -> None:
        models = station.config.models
        self.station = station
        self.seeds = seeds
        self.policy: OpenVLAPolicy = load_policy(station.policy_folder, models.unnorm_key, models.device)
        from gymnast_core.evaluation.simulated_bench import SimulatedBench  # a lab with its own arm has no simulator

        self.bench = SimulatedBench(station.config, self._choose, log, temperature=temperature, judge=judge)

    def __enter__(self) -> TrialRoom:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bench.close()

    @property
    def base_name(self) -> str:
        """Names the base and all of the station that its trials depend on, with 12 hexadecimal digits."""
        config = dataclasses.asdict(self.station.config)
        parts = {name: config[name] for name in ("arm", "camera", "safety", "tasks", "simulation")}
        text = json.dumps([self.policy.checkpoint.fingerprint, config["models"]["unnorm_key"], parts], sort_keys=True)
        return f"{derive_seed(text):016x}"[:12]

    def attach(self, store: adapters.AdapterStore, name: str) -> None:
        """Let trials use a stored adapter, rolled back or not: no arm is driven. Raises: CheckpointError."""
        store.load(self.policy, name, for_study=True)

    def trials(self, policy: str, task: str, count: int, folder: Path, check: Check) -> Trials:
        """`count` trials from the resets that the seeds decide, the same for every policy; those on record are read."""

        def tell(trial: int, phase: str, nested: Any) -> None:
            if phase == "reset":
                check(f"{task}, trial {trial + 1} of {count}")

        plan = [PlannedTrial(task, self._reset("trial", task, number), policy) for number in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        return trials_of(TrialSession(self.bench, plan, folder, tell=tell)())

    def canary(
        self, store: adapters.AdapterStore, name: str, task: str, seed: str, run: Path, check: Check
    ) -> CanaryResult:
        """Canary trials as the station file asks for them; the result of ended ones is read.

        seed: names this canary, so that its resets are its own.
        """
        if (run / RESULT).exists():
            found = read_result(CanaryResult, run)
            if found.adapter != name:
                raise DataError(f"{run}: holds the canary trials of {found.adapter}, found {name}; delete the folder")
            keep_evidence(store.folder(name), found)  # a kill may have come between the result and the evidence
            return found

        def tell(trial: int, phase: str, nested: Any) -> None:
            if phase == "reset":
                check(f"canary, trial {trial + 1}")

        config = self.station.config.canary
        others = [other for other in sorted(self.station.config.tasks) if other != task] if config.other_trials else []
        run.mkdir(parents=True, exist_ok=True)
        number = self._reset("canary", task, seed)
        return Canary(self.bench, config, name, task, others, store.folder(name), run, number, tell)()

    def _reset(self, *parts: int | str) -> int:
        return reset_seed(self.seeds, *parts)

    def _choose(self, name: str) -> Policy:
        adapters.activate(self.policy, *([] if name == BASE else [name]))
        return self.policy


def reset_seed(*parts: int | str) -> int:
    """The seed of a reset, from 2^30 on: far above the seeds of any collected episode."""
    return 2**30 + derive_seed(*parts) % 2**30


def trials_of(records: list[TrialRecord]) -> Trials:
    """Outcomes of trials on the simulated station, which knows every one."""
    return Trials(tuple(int(one.value) for one in records), tuple(hardness(one) for one in records))


def trials_on_record(folder: Path) -> Trials:
    """The trials that a folder holds. Raises: DataError."""
    return trials_of(read_records(folder))

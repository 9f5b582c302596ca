"""What the simulated station says within rounds: canary trials of an adapter, and episodes of the base that measure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.evaluation.canary_config import DEFAULT_TRIALS
from gymnast_core.evaluation.canary_trials import publish_canary
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.reward.factory import load_judge
from gymnast_core.station_file import StationFile
from gymnast_core.workflows.room import BASE, Check, TrialRoom
from gymnast_core.workflows.rounds import measuring_trials
from gymnast_core.workflows.timing import timed

EPISODES = "episodes"


class RobotTrials:
    """Trials of one run. own: the station, whose own judge ends episodes in every round. seeds: names what the resets
    are for. All that is done stays on disk, and is read instead of repeated."""

    def __init__(self, own: StationFile, seeds: str) -> None:
        self.own, self.seeds = own, seeds

    def canary(self, folder: Path, name: str, task: str, seed: str, trials: int | None, check: Check) -> CanaryResult:
        """Canary trials of the adapter `name`, in `folder`; their episodes are kept. trials: pairs at most; None: as
        the station file says."""
        own = self.own.config
        settings = dataclasses.replace(own.canary, trials=trials or own.canary.trials or DEFAULT_TRIALS)
        station = dataclasses.replace(self.own, config=dataclasses.replace(own, canary=settings))
        store = AdapterStore(own.models.adapters)
        with self.room(station, folder) as room:
            room.attach(store, name)
            run = folder / "canary"
            found = room.canary(store, name, task, seed, run, check)
        publish_canary(run, settings, found)
        return found

    def measure_base(self, folder: Path, check: Check) -> tuple[str, ...]:
        """Episodes of the base policy from further resets, the same in all rounds: their folder, none where none are
        wanted."""
        count = measuring_trials(self.own.config)
        if not count:
            return ()
        with timed(folder, "measuring"), self.room(self.own, folder) as room:
            for task in self.own.config.tasks:
                room.trials(BASE, task, count, folder / task, check)
        return (str(folder / EPISODES),)

    def room(self, station: StationFile, folder: Path) -> TrialRoom:
        """For trials whose episodes are kept in `folder`."""
        own = self.own.config
        folder.mkdir(parents=True, exist_ok=True)
        judge = load_judge(own, self.own.path, folder) if own.executor.stop_at_success else None
        return TrialRoom(station, self.seeds, 0.0, folder / EPISODES, judge)

"""The simulated station as the bench of a job, without ROS: the job's policy, a stored adapter, or a policy server."""

from __future__ import annotations

from pathlib import Path

from gymnast_core.data.outcome import ABORTED
from gymnast_core.errors import DataError, StationError
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell
from gymnast_core.evaluation.simulated_bench import SimulatedBench
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.policy.load import open_policy
from gymnast_core.protocols import Policy
from gymnast_core.reward.factory import load_judge
from gymnast_core.serve.job import BASE, Job, is_address
from gymnast_core.station_file import StationFile


class SimulatedJobBench(SimulatedBench):
    """A policy server that fails stops the trial, as it does over ROS, and not the session."""

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One episode; aborted where the policy gave no actions."""
        try:
            return super().run(trial, max_steps, tell)
        except DataError as error:
            return EpisodeOutcome(ABORTED, message=str(error))


def open_simulated_bench(opened: StationFile, job: Job, folder: Path) -> SimulatedJobBench:
    """A bench for one job; episodes go into its folder.

    Raises: StationError where the station is not simulated; ConfigError, CheckpointError, DataError (the policy),
    JudgeError.
    """
    station = opened.config
    if station.simulation is None:
        raise StationError(
            f"no evaluator is in the ROS graph, and {opened.path} has no simulation section; run `gymnast up`"
        )
    policy = _policy_of(opened, job.request.policy)
    judge = load_judge(station, opened.path, folder) if station.executor.stop_at_success else None
    return SimulatedJobBench(station, lambda name: policy, folder / "episodes", judge=judge)


def _policy_of(opened: StationFile, name: str) -> Policy:
    if is_address(name):
        return open_policy(name)
    models = opened.config.models
    own = (models.policy, models.unnorm_key, opened.device)
    if name == BASE:
        return open_policy(*own, beside=opened.path)
    AdapterStore(models.adapters).check_fit_to_act(name)
    return open_policy(*own, name, models.adapters, opened.path)

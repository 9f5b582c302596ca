"""The simulated station as the bench of a job, without ROS."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from gymnast_core.errors import StationError
from gymnast_core.evaluation.simulated_bench import SimulatedBench, open_simulated_bench
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.serve.job import Job
from gymnast_core.station_file import StationFile


def open_job_bench(opened: StationFile, job: Job, folder: Path) -> AbstractContextManager[SimulatedBench]:
    """A bench for one job, whose policy is one of the station's; episodes go into the job's folder.

    Raises: StationError where the station is not simulated; on entering, see `open_simulated_bench`.
    """
    if opened.config.simulation is None:
        raise StationError(
            f"no evaluator is in the ROS graph, and {opened.path} has no simulation section; run `gymnast up`"
        )
    return open_simulated_bench(opened, StationPolicies(opened), (job.request.policy,), folder)

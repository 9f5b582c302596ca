"""The ROS side of `gymnast queue run`: one job of a queue through the station in the ROS graph."""

from __future__ import annotations

import contextlib
import sys

from gymnast_core.progress import interrupts
from gymnast_core.serve.job_run import JobRun
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_config import RunQueueConfig
from gymnast_core.serve.queue_station import open_queue_station
from gymnast_nodes.client import Station
from gymnast_nodes.client_verb import run_client
from gymnast_nodes.graph_bench import GraphBench

BUSY_S = 900.0
"""How long others' trials, and those that a killed runner left behind, are waited for."""


def do_job(config: RunQueueConfig) -> int:
    """0 when the job has ended, 1 when it is to go on later. Raises: GymnastError, KeyboardInterrupt."""
    store = JobStore(config.queue)
    opened = open_queue_station(store)
    if opened is None:
        return 1
    with interrupts(), Station(namespace=config.namespace) as station:
        bench = GraphBench(station, busy_s=BUSY_S)
        job = JobRun(store, config.job, opened.config, lambda job, folder: contextlib.nullcontext(bench))
        return 0 if job() else 1


def main() -> int:
    """The exit code of `gymnast queue run --job N`."""
    return run_client(RunQueueConfig, do_job, "interrupted: the arm holds")


if __name__ == "__main__":
    sys.exit(main())

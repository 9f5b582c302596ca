"""The ROS side of `gymnast queue run`: one job of a queue through the station in the ROS graph."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gymnast_core.config import parse_config
from gymnast_core.errors import GymnastError
from gymnast_core.progress import interrupts, say
from gymnast_core.serve.job import Job
from gymnast_core.serve.job_run import JobRun
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_config import RunQueueConfig
from gymnast_core.serve.queue_station import open_queue_station
from gymnast_nodes.client import Station
from gymnast_nodes.job_bench import StationJobBench


def do_job(config: RunQueueConfig) -> int:
    """0 when the job has ended, 1 when it is to go on later. Raises: GymnastError, KeyboardInterrupt."""
    store = JobStore(config.queue)
    opened = open_queue_station(store)
    if opened is None:
        return 1
    own = opened.config.models.policy
    with interrupts(), Station(namespace=config.namespace) as station:

        def open_bench(job: Job, folder: Path) -> StationJobBench:
            policy = job.request.policy
            return StationJobBench(station, "base" if policy == own else policy, say)

        return 0 if JobRun(store, config.job, opened.config, open_bench)() else 1


def main() -> int:
    """The exit code of `gymnast queue run --job N`."""
    try:
        return do_job(parse_config(RunQueueConfig, json.loads(sys.argv[1]), "options"))
    except GymnastError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the arm holds", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

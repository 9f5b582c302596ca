"""A queued job over the real graph: it waits for others, each trial is run once, and a cancel holds the arm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnast_msgs.msg import ArmState, BridgeAction

from gymnast_core.errors import StationError
from gymnast_core.evaluation.session import PlannedTrial, read_records
from gymnast_core.serve.job import FIRST_SEED, JobRequest
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_station import station_of
from gymnast_nodes.graph_bench import GraphBench
from tests.domains import isolate
from tests.machine import HANG_S
from tests.processes import ROOT, wait_for
from tests.ros_tools import Client, assert_held, running_station
from tests.tiny_station import build_tiny_station, put_on_graph

SLOW_S = 240.0


@contextlib.contextmanager
def runner(store: JobStore, domain: int) -> Iterator[subprocess.Popen[str]]:
    """`gymnast queue run` that finds the graph by itself; its group is killed if it still runs."""
    line = [sys.executable, "-m", "gymnast_core.cli", "queue", "run", "--queue", str(store.folder)]
    with open(store.folder / "runner.txt", "a") as output:
        process = subprocess.Popen(
            line, cwd=ROOT, env={**os.environ, **isolate(domain)}, stdout=output, stderr=output, text=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def trials(store: JobStore, number: int) -> list[int]:
    """Seeds of the trials on record, in their order."""
    return [record.seed - FIRST_SEED for record in read_records(store.job_folder(number))]


def test_a_job_over_ros_loses_no_trial_runs_none_twice_and_is_cancelled_with_the_arm_held(tmp_path: Path) -> None:
    path = build_tiny_station(tmp_path, simulated=True)
    actions = np.zeros((400, 7), np.float32)
    actions[:, 0] = np.where(np.arange(400) % 4 < 2, 0.004, -0.004)  # to and fro, so that it never ends out of reach
    actions[:, 6] = 1.0
    np.savez(tmp_path / "script.npz", actions=actions)
    put_on_graph(path, models={"policy": str(tmp_path / "script.npz")})
    store = JobStore(tmp_path / "queue")
    station_of(store, str(path))
    with running_station(path, without=("adapter",)) as (_, raw, station):
        domain = raw.context.get_domain_id()
        job = store.submit(JobRequest("open_drawer", trials=4, max_steps=5), "ann", 9)
        others = station.run_trials("open_drawer", 1, max_steps=400)
        with pytest.raises(StationError, match="refused the goal"):  # as `gymnast trials` is
            GraphBench(station).run(PlannedTrial("open_drawer", 0), 5, lambda phase, nested: None)
        with runner(store, domain) as process:
            log = store.job_folder(job.number) / "log.txt"
            wait_for(lambda: log.exists() and "waiting: " in log.read_text(), SLOW_S, process)
            assert not others.is_complete() and others.cancel(HANG_S)
            wait_for(lambda: trials(store, job.number), SLOW_S, process)
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for number in (int(child), process.pid):  # nobody is left to cancel the trial that is under way
                os.kill(number, signal.SIGKILL)
        with runner(store, domain) as process:
            wait_for(lambda: store.job(job.number).state == "done", SLOW_S, process)
            assert trials(store, job.number) == [0, 1, 2, 3]
            records = read_records(store.job_folder(job.number))
            assert len({record.episode_path for record in records}) == 4 and all(r.truth is not None for r in records)
            assert len(list((store.job_folder(job.number) / "videos").iterdir())) == 4
            _cancelled_in_a_trial(store, raw, process)


def _cancelled_in_a_trial(store: JobStore, raw: Client, process: subprocess.Popen[str]) -> None:
    raw.listen(ArmState, "/arm/state")
    sent = raw.listen(BridgeAction, "/arm/action", 100)
    job = store.submit(JobRequest("open_drawer", trials=2, max_steps=300), "ann", 9)
    wait_for(lambda: len(sent) > 5, SLOW_S, process)
    store.cancel(job.number, "ann")
    wait_for(lambda: store.job(job.number).state == "cancelled", SLOW_S, process)
    assert_held(raw, time.monotonic())
    assert trials(store, job.number) == [] and store.job(job.number).message == "cancelled by ann"

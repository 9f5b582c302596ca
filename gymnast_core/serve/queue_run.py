"""`gymnast queue run`: the runner of a queue. Each job is a process of its own, which dies with the runner.

What is running stands in the queue, and each trial in the job's folder: a runner that is killed is started again, and
the job goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time

from gymnast_core.config import dump_config
from gymnast_core.files import write_bytes
from gymnast_core.graph import look
from gymnast_core.locks import lock_folder
from gymnast_core.progress import Interruption, interruptible, say
from gymnast_core.ros_client import become_ros_client
from gymnast_core.serve.job import Job
from gymnast_core.serve.job_run import JobRun, close_job
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_config import RunQueueConfig
from gymnast_core.serve.queue_dyna import NightlyDyna
from gymnast_core.serve.queue_station import open_queue_station, station_of
from gymnast_core.verb_process import how_it_ended, last_words, start_verb

POLL_S = 0.2
GRACE_S = 60.0
"""Between the request that a job's process end and its kill."""
CRASHES = 3
"""A job whose process dies this often without a further trial has failed."""
LOOK_S = "5"
"""Seconds in which an evaluator in the ROS graph is discovered, also by a busy machine."""
LOG = "log.txt"


def run_queue(config: RunQueueConfig) -> int:
    """Run jobs until Ctrl-C; 0, or with `once` 1 where the queue is paused. Raises: ConfigError, DataError."""
    store = JobStore(config.queue)
    if config.job:
        return _do_job(store, config)
    station = station_of(store, config.config)
    lock = lock_folder(store.folder)  # held to the end
    say(f"running the jobs of {store.folder} on station '{station.config.name}' (Ctrl-C ends it)")
    try:
        return Runner(store, config)()
    finally:
        del lock


def _do_job(store: JobStore, config: RunQueueConfig) -> int:
    """One job in this process; 0 when it has ended, 1 when it is to go on later. Raises: ConfigError, DataError."""
    over_ros = config.over == "ros"
    if config.over == "auto":
        over_ros = bool(look(["--wait", LOOK_S, f"{config.namespace.rstrip('/')}/evaluator"]))
    if over_ros:
        become_ros_client("job_client", dataclasses.asdict(config))
    from gymnast_core.serve.job_bench import open_job_bench  # it imports torch

    opened = open_queue_station(store)
    if opened is None:
        return 1
    job = JobRun(store, config.job, opened.config, lambda job, folder: open_job_bench(opened, job, folder))
    return 0 if job() else 1


class Runner:
    """Takes jobs, watches their processes, and ends those that are cancelled or take too long."""

    def __init__(self, store: JobStore, config: RunQueueConfig) -> None:
        self._store, self._config = store, config
        self._crashes = 0
        self._dyna = NightlyDyna(store)

    def __call__(self) -> int:
        """Until SIGINT or SIGTERM; with `once` until no job waits."""
        self._store.forget_tokens()
        with interruptible() as stop:
            while not stop:
                job = self._store.take()
                if job is not None:
                    self._run(job, stop)
                    continue
                self._close_cancelled()
                if self._config.once:
                    return int(bool(self._store.paused))
                if night := self._dyna.due():
                    self._dyna.run(night, lambda: bool(stop))
                time.sleep(POLL_S)
        return 0

    def _close_cancelled(self) -> None:
        """A job that was cancelled needs no station to end, nor a process."""
        for job in self._store.jobs(0):
            if job.state == "running" and job.cancelled_by:
                close_job(self._store, job.number, "cancelled", f"cancelled by {job.cancelled_by}")

    def _run(self, job: Job, stop: Interruption) -> None:
        """One process for a job, from its start to its end."""
        say(f"job {job.number}: {job.request.trials} trials of {job.request.task}, {job.request.policy}, by {job.user}")
        process = self._start(job)
        late = self._watch(job, process, stop)
        now = self._store.job(job.number)
        if now.state != "running":
            self._crashes = 0
            say(f"job {now.number}: {now.state}: {now.message}")
        elif now.cancelled_by:  # its process ended before it could say so itself, as in its start
            self._close_cancelled()
        elif late:
            close_job(self._store, job.number, "failed", f"took longer than {self._config.hours:g} hours")
        elif not stop and not self._store.paused:
            self._crashed(job, now, process.returncode)

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        folder = self._store.job_folder(job.number)
        folder.mkdir(parents=True, exist_ok=True)
        options = folder / "run.yaml"
        own = dataclasses.replace(self._config, queue=str(self._store.folder), config="", job=job.number)
        write_bytes(options, dump_config(own).encode())
        environment = {**os.environ, "COLUMNS": "160"}
        with open(folder / LOG, "ab") as log:
            return start_verb("queue run", options, log, environment=environment)

    def _watch(self, job: Job, process: subprocess.Popen[bytes], stop: Interruption) -> bool:
        """Wait for its end, which is asked for where the runner ends, the job is cancelled, or time is up. Returns
        whether time was up."""
        due, asked_at, late = time.monotonic() + 3600.0 * self._config.hours, 0.0, False
        while process.poll() is None:
            time.sleep(POLL_S)
            now = time.monotonic()
            late = late or now > due
            if not asked_at and (stop or late or self._store.job(job.number).cancelled_by):
                asked_at = now
                process.send_signal(signal.SIGINT)
            elif asked_at and now - asked_at > GRACE_S:
                process.kill()
                process.wait()
        return late

    def _crashed(self, before: Job, now: Job, code: int) -> None:
        """Its process ended, and the job did not: it is tried again, unless that was in vain before."""
        words = last_words(self._store.job_folder(now.number) / LOG)
        self._crashes = self._crashes + 1 if now.trials_done == before.trials_done else 1
        told = f"its process ended {how_it_ended(code)}: {words}"
        say(f"job {now.number}: {told}", "yellow")
        if self._crashes >= CRASHES:
            self._crashes = 0
            close_job(self._store, now.number, "failed", f"{told} ({CRASHES} times in a row)")
        else:
            time.sleep(POLL_S)

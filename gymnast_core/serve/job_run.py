"""One job at work: its trials through the one trial session, from where they stand, to a result with videos.

Every trial is on the disk before the next one begins, and a job that was cut short goes on with the first trial that is
not on record. The queue's switch and a cancel are looked at after each trial; a signal ends the trial at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from gymnast_core.config import StationConfig
from gymnast_core.data.outcome import ABORTED
from gymnast_core.errors import DataError, GymnastError, StationError
from gymnast_core.evaluation.comparison_page import write_page_of_one
from gymnast_core.evaluation.session import (
    MAX_ABORTED_IN_A_ROW,
    Bench,
    PlannedTrial,
    TrialRecord,
    TrialSession,
    read_records,
    summarise,
)
from gymnast_core.locks import wait_for_folder
from gymnast_core.policy.server_tokens import keep_secret, lend_tokens
from gymnast_core.progress import Interruption, Stopped, interruptible, interrupts, say
from gymnast_core.serve.job import Job, JobRequest, State
from gymnast_core.serve.job_films import film_trials
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_station import STATION

EARLIER_S = 60.0
"""How long the process of a killed runner is waited for."""
CANCEL = "cancelled"
WAITS = "the station is free; waits for `gymnast queue resume`"
FAULTS = "jobs stopped by faults"
"""Fact of a queue: the last job was stopped by one trial's fault after the other."""


OpenBench = Callable[[Job, Path], AbstractContextManager[Bench]]
"""(job, its folder) -> a bench for the job's trials. Raises: GymnastError."""


def plan_of(request: JobRequest) -> list[PlannedTrial]:
    """The trials of a job."""
    return [PlannedTrial(request.task, request.first_seed + number, request.policy) for number in range(request.trials)]


def close_job(store: JobStore, number: int, state: State, message: str, hz: float = 5.0) -> Job:
    """Write result and page of what is on record, then end the job: a kill between the two repeats the first alone.

    hz: of the videos. Raises: DataError.
    """
    job, folder = store.job(number), store.job_folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    records = read_records(folder)[: job.request.trials]
    film_trials(folder, records, hz)
    asked = job.request
    result = summarise(records, asked.trials, folder, asked.policy, message)
    station = Path(store.fact(STATION)).stem
    try:
        write_page_of_one(folder, station, asked.policy, asked.task, asked.trials, records, message)
    except DataError as error:  # a job counts without its page
        say(f"job {number}: no page: {error}", "yellow")
    store.report(number, len(records), result.successes)
    return store.finish(number, state, result.message)


class JobRun:
    """Runs the job `number` of a queue. station: whose tasks and limits hold. open_bench: see `OpenBench`."""

    def __init__(self, store: JobStore, number: int, station: StationConfig, open_bench: OpenBench) -> None:
        self._store, self._number, self._station, self._open = store, number, station, open_bench
        self._folder = store.job_folder(number)
        self._done = self._successes = 0
        self._said = ""

    def __call__(self) -> bool:
        """Whether the job has ended; False where it is to go on later.

        Raises: KeyboardInterrupt when the process is asked to end and the job is not; DataError where the job does not
        run, or nothing can be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = wait_for_folder(self._folder, EARLIER_S)
        try:
            with interruptible() as stop:  # what is written at the end is written whole
                return self._to_its_end(stop)
        finally:
            del lock

    def _to_its_end(self, stop: Interruption) -> bool:
        records = read_records(self._folder)
        job = self._store.report(self._number, len(records), _successes(records))
        try:
            if stop:
                raise Stopped
            return self._run(job)
        except KeyboardInterrupt:
            if not self._store.job(self._number).cancelled_by:
                raise
            return self._cancelled()

    def _run(self, job: Job) -> bool:
        if job.cancelled_by:
            return self._cancelled()
        if self._store.paused:
            return self._wait()
        try:
            with interrupts():
                self._station.task(job.request.task)
                self._check_disk()
                with lend_tokens(self._tokens(job)), self._open(job, self._folder) as bench:
                    session = self._session(job, bench)
        except StationError as error:
            return self._faulty(job, str(error))
        except GymnastError as error:
            return self._end("failed", self._where(job, str(error)))
        if len(session.records) == job.request.trials:
            return self._end("done", "")
        return self._cancelled() if session.stopped_by == CANCEL else self._wait()

    def _tokens(self, job: Job) -> dict[str, str]:
        """The token for the job's policy server, by its address. Raises: DataError, ConfigError."""
        token = self._store.tokens.of(job.number)
        return {job.request.policy: keep_secret(token, f"job {job.number}: token")} if token else {}

    def _session(self, job: Job, bench: Bench) -> TrialSession:
        session = TrialSession(
            bench, plan_of(job.request), self._folder, job.request.max_steps, self._tell, self._after, self._warn
        )
        self._done, self._successes = len(session.records), _successes(session.records)
        session()
        return session

    def _tell(self, number: int, phase: str, nested: Any) -> None:
        self._done = number
        told = f"trial {number + 1}: {phase}"
        if told != self._said:
            self._said = told
            self._store.report(self._number, number, self._successes, told)

    def _after(self, records: Sequence[TrialRecord]) -> str:
        """After each trial: its video and its count; why the session is to end, if it is. Raises: StationError."""
        film_trials(self._folder, records[-1:], self._station.arm.control_hz)
        self._successes = _successes(records)
        job = self._store.report(self._number, len(records), self._successes)
        say(f"job {self._number}: trial {len(records)} of {job.request.trials}, {job.successes} succeeded")
        if records[-1].outcome != ABORTED and self._store.fact(FAULTS):
            self._store.set_fact(FAULTS, "")
        self._check_disk()
        return CANCEL if job.cancelled_by else "paused" if self._store.paused else ""

    def _check_disk(self) -> None:
        """Raises: StationError where a trial may not fit on the disk."""
        free, needed = shutil.disk_usage(self._folder).free / 1e6, self._station.recorder.min_free_mb
        if free < needed:
            raise StationError(f"{self._folder}: found {free:.0f} MB free, needed {needed}; free disk space")

    def _faulty(self, job: Job, words: str) -> bool:
        """A fault of the station keeps the job and pauses the queue. A job whose every trial is stopped may be at fault
        itself: the first one fails, the next one pauses the queue."""
        last = [record.outcome for record in read_records(self._folder)[-MAX_ABORTED_IN_A_ROW:]]
        if last == [ABORTED] * MAX_ABORTED_IN_A_ROW and not self._store.fact(FAULTS):
            self._store.set_fact(FAULTS, f"job {self._number}")
            return self._end("failed", self._where(job, words))
        self._store.pause(f"job {self._number}: {words}")
        say(f"the queue is paused: job {self._number}: {words}", "yellow")
        return self._wait()

    def _wait(self) -> bool:
        """The queue is paused: say that the station is free."""
        records = read_records(self._folder)
        self._store.report(self._number, len(records), _successes(records), WAITS)
        return False

    def _cancelled(self) -> bool:
        return self._end("cancelled", f"cancelled by {self._store.job(self._number).cancelled_by}")

    def _end(self, state: State, message: str) -> bool:
        close_job(self._store, self._number, state, message, self._station.arm.control_hz)
        return True

    def _where(self, job: Job, words: str) -> str:
        return f"trial {self._done + 1} of {job.request.trials}: {words}"

    def _warn(self, text: str) -> None:
        say(f"job {self._number}: {text}", "yellow")


def _successes(records: Sequence[TrialRecord]) -> int:
    return sum(record.value == 1.0 for record in records)

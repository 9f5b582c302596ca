"""The queue on disk: whatever is done to it in whatever order, and whoever is killed in the midst of it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.serve.job import OPEN, JobRequest
from gymnast_core.serve.job_store import FILE, JobStateError, JobStore, NoSuchJobError, TooManyJobsError
from gymnast_core.serve.job_users import User, Users
from tests.processes import ROOT

LIMIT = 3


class Queue(RuleBasedStateMachine):
    """The store against a list: jobs as (priority, user, state), one for each number."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="queue_")
        self.store = JobStore(self.folder)
        self.jobs: dict[int, tuple[int, str, str]] = {}
        self.paused = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(priority=st.integers(-9, 9), user=st.sampled_from(["ann", "bob"]))
    def submit(self, priority: int, user: str) -> None:
        request = JobRequest("open", priority=priority)
        if sum(one == user and state in OPEN for _, one, state in self.jobs.values()) >= LIMIT:
            with pytest.raises(TooManyJobsError, match="allowed are 3"):
                self.store.submit(request, user, LIMIT)
        else:
            job = self.store.submit(request, user, LIMIT)
            assert job.number == len(self.jobs) + 1 and job.state == "waiting"
            self.jobs[job.number] = (priority, user, "waiting")

    @rule()
    def take(self) -> None:
        running = [number for number, (_, _, state) in self.jobs.items() if state == "running"]
        waiting = [(-priority, number) for number, (priority, _, state) in self.jobs.items() if state == "waiting"]
        expected = None if self.paused else next(iter(running or [number for _, number in sorted(waiting)]), None)
        job = self.store.take()
        assert (job.number if job else None) == expected
        if job:
            self.jobs[job.number] = (*self.jobs[job.number][:2], "running")

    @rule(number=st.integers(1, 12), state=st.sampled_from(["done", "failed"]))
    def finish(self, number: int, state: str) -> None:
        if number in self.jobs and self.jobs[number][2] == "running":
            assert self.store.finish(number, state, "").state == state  # type: ignore[arg-type]
            self.jobs[number] = (*self.jobs[number][:2], state)
        else:
            with pytest.raises((JobStateError, NoSuchJobError)):
                self.store.finish(number, state, "")  # type: ignore[arg-type]

    @rule(number=st.integers(1, 12))
    def cancel(self, number: int) -> None:
        if number not in self.jobs or self.jobs[number][2] not in OPEN:
            with pytest.raises((JobStateError, NoSuchJobError)):
                self.store.cancel(number, "ann")
        else:
            job = self.store.cancel(number, "ann")
            assert job.cancelled_by == "ann"
            assert job.state == ("cancelled" if self.jobs[number][2] == "waiting" else "running")
            self.jobs[number] = (*self.jobs[number][:2], job.state)

    @rule(paused=st.booleans())
    def switch(self, paused: bool) -> None:
        self.paused = paused
        self.store.pause("a motor is hot") if paused else self.store.resume()

    @precondition(lambda self: self.jobs)
    @rule()
    def another_process_opens_it(self) -> None:
        self.store = JobStore(self.folder)

    @invariant()
    def all_is_as_it_was_left(self) -> None:
        if not hasattr(self, "jobs"):
            return
        states = {job.number: (job.request.priority, job.user, job.state) for job in self.store.jobs(100)}
        assert states == self.jobs and sum(state == "running" for _, _, state in self.jobs.values()) <= 1


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)

SUBMIT = """
import sys
from gymnast_core.serve.job import JobRequest
from gymnast_core.serve.job_store import JobStore
store = JobStore(sys.argv[1])
while True:
    job = store.submit(JobRequest("open"), sys.argv[2], 10**6)
    print(job.number, flush=True)
    if job.number % 3 == 0:
        store.cancel(job.number, "it")
"""


def test_a_job_that_was_acknowledged_outlives_a_kill_of_whoever_writes(tmp_path: Path) -> None:
    """Two processes write at once and are killed in the midst of it."""
    acknowledged: list[int] = []
    for _ in range(2):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", SUBMIT, str(tmp_path), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            for name in ("ann", "bob")
        ]
        for writer in writers:
            assert writer.stdout is not None
            acknowledged += [int(writer.stdout.readline()) for _ in range(15)]
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout is not None
            with writer.stdout:
                acknowledged += [int(line) for line in writer.stdout.read().splitlines() if line.isdigit()]
            writer.wait()
        with sqlite3.connect(tmp_path / FILE) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = JobStore(tmp_path)
    found = {job.number: job for job in store.jobs(10_000)}
    assert len(set(acknowledged)) == len(acknowledged) and set(acknowledged) <= set(found)
    assert sorted(found) == list(range(1, len(found) + 1)), "no number is given twice, and none is left out"


def test_processes_that_open_a_new_queue_at_once_find_the_same(tmp_path: Path) -> None:
    numbers: list[int] = []
    together = threading.Barrier(6)

    def submit(name: str) -> None:
        together.wait(60)
        numbers.append(JobStore(tmp_path / "new").submit(JobRequest("open"), name, 9).number)

    threads = [threading.Thread(target=submit, args=(f"user{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 7))


def test_what_is_no_queue_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"<html>" * 1000)
    with pytest.raises(DataError, match="file is not a database; is it a queue"):
        JobStore(tmp_path)
    (tmp_path / FILE).unlink()
    JobStore(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(DataError, match="found a queue of version 7, this gymnast reads 1"):
        JobStore(tmp_path)


def test_a_token_is_its_users_alone_and_is_kept_nowhere(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    users = Users(store)
    first, other = users.set(User("ann", jobs=2, priority=3)), users.set(User("bob", owner=True))
    assert users.of_token(first) == User("ann", 2, 3) and users.of_token(other) == User("bob", owner=True)
    assert users.of_token("") is None and users.of_token(first[:-1]) is None
    second = users.set(User("ann"))
    assert users.of_token(first) is None and users.of_token(second) == User("ann"), "a new token ends the old one"
    users.remove("bob")
    assert users.of_token(other) is None
    assert not any(token.encode() in path.read_bytes() for path in tmp_path.iterdir() for token in (second, other))
    with pytest.raises(ConfigError, match="allowed are -9 to 0 for ann"):
        User("ann").check(JobRequest("open", priority=1))
    for name in ("", "a b", "../x", "-a", "a" * 65):
        with pytest.raises(ConfigError, match="user: found"):
            users.set(User(name))


def test_a_token_that_a_kill_left_is_forgotten_and_no_other(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "queue")
    waiting, ended = (store.submit(JobRequest("open_drawer", "ws://a"), "ann", 9, f"of-{n}-alone") for n in (1, 2))
    store.cancel(ended.number, "ann")
    assert store.tokens.numbers() == [waiting.number]
    for number in (ended.number, 77):
        store.tokens.keep(number, "left-by-a-kill")
    store.forget_tokens()
    assert store.tokens.numbers() == [waiting.number] and store.tokens.of(waiting.number) == "of-1-alone"

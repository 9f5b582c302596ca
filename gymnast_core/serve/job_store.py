"""The jobs of one station on disk: an SQLite file that several processes use at once, and that a kill cannot harm.

Every change is one transaction, and it is on the disk when its method returns. No time of day decides anything: jobs go
by priority, then by number.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gymnast_core.config import parse_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import sync_folder, user_path
from gymnast_core.serve.job import OPEN, Job, JobRequest, State
from gymnast_core.serve.job_tokens import JobTokens

FILE = "queue.sqlite"
VERSION = 1
BUSY_S = 30.0
"""How long a process waits while another one writes."""
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, task TEXT NOT NULL, policy TEXT NOT NULL,
    trials INTEGER NOT NULL, contact TEXT NOT NULL, priority INTEGER NOT NULL, first_seed INTEGER NOT NULL,
    max_steps INTEGER NOT NULL, state TEXT NOT NULL, submitted TEXT NOT NULL, started TEXT NOT NULL DEFAULT '',
    ended TEXT NOT NULL DEFAULT '', trials_done INTEGER NOT NULL DEFAULT 0, successes INTEGER NOT NULL DEFAULT 0,
    starts INTEGER NOT NULL DEFAULT 0, cancelled_by TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT ''
);
CREATE INDEX by_state ON jobs (state, priority DESC, number);
CREATE TABLE users (
    name TEXT PRIMARY KEY, token TEXT NOT NULL DEFAULT '', jobs INTEGER NOT NULL, priority INTEGER NOT NULL,
    owner INTEGER NOT NULL
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
ASKED = ("task", "policy", "trials", "contact", "priority", "first_seed", "max_steps")
FOUND = ("number", "user", "state", "submitted", "started", "ended", "trials_done", "successes", "starts")
COLUMNS = (*ASKED, *FOUND, "cancelled_by", "message")


class NoSuchJobError(DataError):
    """A number that no job has."""


class JobStateError(DataError):
    """A job that is in another state than what is asked for needs."""


class TooManyJobsError(ConfigError):
    """A user's jobs that wait or run are as many as are allowed."""


class JobStore:
    """The queue in `folder`, which is made where it is missing. Raises: DataError where it cannot be read or made."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = user_path(folder, "--queue").resolve()
        self.path = self.folder / FILE
        self.tokens = JobTokens(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be created: {error.strerror or error}") from error
        if not self.path.exists():
            self._create()
        with self.transaction() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise DataError(f"{self.path}: found a queue of version {version}, this gymnast reads {VERSION}")

    def job_folder(self, number: int) -> Path:
        """Where a job's trials, result and videos are kept."""
        return self.folder / "jobs" / str(number)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Reads and changes in the block happen at once, or not at all. Raises: DataError naming the file."""
        try:
            database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    if database.in_transaction:
                        database.execute("ROLLBACK")
                    raise
            finally:
                database.close()
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: {error}; is it a queue, and is there disk space?") from error

    # Facts of the whole queue

    def fact(self, name: str) -> str:
        """A fact of the queue, "" where it is not known."""
        with self.transaction() as database:
            found = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def set_fact(self, name: str, value: str) -> None:
        """Set a fact of the queue; "" forgets it."""
        with self.transaction() as database:
            if value:
                database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
            else:
                database.execute("DELETE FROM facts WHERE name = ?", (name,))

    @property
    def paused(self) -> str:
        """Why no job goes on; "" where the queue runs."""
        return self.fact("paused")

    def pause(self, reason: str) -> None:
        """No job begins, and the one that runs stops after its trial, until `resume`."""
        self.set_fact("paused", " ".join(reason.split())[:500] or "maintenance")

    def resume(self) -> None:
        """Jobs go on."""
        self.set_fact("paused", "")

    # Jobs

    def submit(self, request: JobRequest, user: str, limit: int, token: str = "") -> Job:
        """Add a job. limit: jobs of this user that may wait or run at once. token: for its policy server.

        Raises: TooManyJobsError.
        """
        with self.transaction() as database:
            (due,) = database.execute(
                "SELECT count(*) FROM jobs WHERE user = ? AND state IN (?, ?)", (user, *OPEN)
            ).fetchone()
            if due >= limit:
                raise TooManyJobsError(
                    f"user '{user}' has {due} jobs that wait or run, allowed are {limit}; wait, or cancel one"
                )
            values = (user, *(getattr(request, name) for name in ASKED), "waiting", _now())
            marks = ", ".join("?" * len(values))
            done = database.execute(
                f"INSERT INTO jobs (user, {', '.join(ASKED)}, state, submitted) VALUES ({marks})", values
            )
            number = int(done.lastrowid or 0)
            self.tokens.keep(number, token)  # a job that is seen has its token
            return self._read(database, number)

    def job(self, number: int) -> Job:
        """The job of that number. Raises: NoSuchJobError."""
        with self.transaction() as database:
            return self._read(database, number)

    def jobs(self, closed: int = 20) -> list[Job]:
        """Open jobs in the order in which they are to run, then up to `closed` others, the latest first."""
        chosen = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE state IN (?, ?)"
        order = "ORDER BY state = 'running' DESC, priority DESC, number"
        ended = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE state NOT IN (?, ?) ORDER BY number DESC LIMIT ?"
        with self.transaction() as database:
            rows = database.execute(f"{chosen} {order}", OPEN).fetchall()
            rows += database.execute(ended, (*OPEN, closed)).fetchall()
        return [self._job(row) for row in rows]

    def take(self) -> Job | None:
        """The job to run now, marked as running: one that was cut short, else the first that waits. None: no job is
        open, or the queue is paused."""
        order = "ORDER BY state = 'running' DESC, priority DESC, number LIMIT 1"
        with self.transaction() as database:
            if database.execute("SELECT 1 FROM facts WHERE name = 'paused'").fetchone():
                return None
            found = database.execute(f"SELECT number FROM jobs WHERE state IN (?, ?) {order}", OPEN).fetchone()
            if found is None:
                return None
            database.execute(
                "UPDATE jobs SET state = 'running', starts = starts + 1, started = iif(started = '', ?, started) "
                "WHERE number = ?",
                (_now(), found[0]),
            )
            return self._read(database, found[0])

    def report(self, number: int, trials_done: int, successes: int, message: str = "") -> Job:
        """Note how far a running job has come. Raises: JobStateError where it does not run."""
        return self._change_running(number, trials_done=trials_done, successes=successes, message=message)

    def finish(self, number: int, state: State, message: str) -> Job:
        """The end of a running job. Raises: JobStateError where it does not run."""
        job = self._change_running(number, state=state, message=message, ended=_now())
        self.tokens.forget(number)
        return job

    def cancel(self, number: int, by: str) -> Job:
        """End a job: at once where it waits, by its process where it runs. Raises: JobStateError where it has ended."""
        with self.transaction() as database:
            job = self._read(database, number)
            if job.state not in OPEN:
                raise JobStateError(f"job {number}: has ended ({job.state})")
            changes: dict[str, Any] = {"cancelled_by": by}
            if job.state == "waiting":
                changes |= {"state": "cancelled", "ended": _now(), "message": f"cancelled by {by} before it began"}
            job = self._change(database, number, changes)
        if job.state not in OPEN:
            self.tokens.forget(number)
        return job

    def forget_tokens(self) -> None:
        """Forget tokens that a kill has left: those of jobs that have ended, or were never added."""
        for number in self.tokens.numbers():
            try:
                ended = self.job(number).state not in OPEN
            except NoSuchJobError:
                ended = True
            if ended:
                self.tokens.forget(number)

    def _create(self) -> None:
        """Make an empty queue beside its place and give it its name: nobody sees half of one. Raises: DataError."""
        try:
            with tempfile.TemporaryDirectory(prefix=".new_", dir=self.folder) as made:
                database = sqlite3.connect(Path(made) / FILE, isolation_level=None)
                database.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA} PRAGMA user_version = {VERSION};")
                database.close()
                with contextlib.suppress(FileExistsError):  # another process was first
                    os.link(Path(made) / FILE, self.path)
            sync_folder(self.folder)
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{self.path}: cannot be created: {error}; free disk space or choose --queue") from error

    def _change_running(self, number: int, **changes: Any) -> Job:
        with self.transaction() as database:
            job = self._read(database, number)
            if job.state != "running":
                raise JobStateError(f"job {number}: is {job.state}, needed running")
            return self._change(database, number, changes)

    def _change(self, database: sqlite3.Connection, number: int, changes: dict[str, Any]) -> Job:
        set_ = ", ".join(f"{name} = ?" for name in changes)
        database.execute(f"UPDATE jobs SET {set_} WHERE number = ?", (*changes.values(), number))
        return self._read(database, number)

    def _read(self, database: sqlite3.Connection, number: int) -> Job:
        row = database.execute(f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise NoSuchJobError(f"job {number}: there is none; `gymnast queue list` shows those there are")
        return self._job(row)

    def _job(self, row: tuple[Any, ...]) -> Job:
        values = dict(zip(COLUMNS, row))
        content = {"request": {name: values.pop(name) for name in ASKED}, **values}
        try:
            return parse_config(Job, content, f"{self.path}: job {values['number']}")
        except ConfigError as error:
            raise DataError(str(error)) from error


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

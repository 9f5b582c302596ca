"""What a user may do to a queue, whether in a terminal or over HTTP: each deed with its checks, answered by JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy.server_tokens import keep_secret
from gymnast_core.serve.job import Job, JobRequest, is_address
from gymnast_core.serve.job_films import FOLDER
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.job_users import User
from gymnast_core.serve.job_view import describe_job, describe_result
from gymnast_core.serve.queue_station import check_request, station_of
from gymnast_core.station_file import StationFile


class NotAllowedError(ConfigError):
    """Something that another user, or an owner, may do."""


class QueueDesk:
    """The queue of one station. config: the station file that a new queue is for, "" for the usual one."""

    def __init__(self, store: JobStore, config: str = "") -> None:
        self.store = store
        self._config = config

    @property
    def station(self) -> StationFile:
        """The queue's station, as its file is now. Raises: ConfigError."""
        return station_of(self.store, self._config)

    def submit(self, user: User, request: JobRequest, token: str = "") -> dict[str, Any]:
        """token: for the job's policy server. Raises: ConfigError (task, adapter, priority), TooManyJobsError."""
        check_request(request, self.station.config)
        user.check(request)
        if token and not is_address(request.policy):
            raise ConfigError(f"policy_token: found a token, but policy {request.policy!r} is no policy server")
        checked = keep_secret(token, "policy_token") if token else ""
        return describe_job(self.store.submit(request, user.name, user.jobs, checked))

    def overview(self, user: User) -> dict[str, Any]:
        """Whether the queue is paused, and its jobs: others' without what is their own business."""
        jobs = [describe_job(job, self._may(user, job)) for job in self.store.jobs()]
        return {"paused": self.store.paused, "jobs": jobs}

    def show(self, user: User, number: int, link: str = "") -> dict[str, Any]:
        """A job with its trials and result; another user's as the overview shows it.

        link: put before the names of videos. Raises: NoSuchJobError.
        """
        job = self.store.job(number)
        return describe_result(self.store, job, link) if self._may(user, job) else describe_job(job, False)

    def cancel(self, user: User, number: int) -> dict[str, Any]:
        """Raises: NoSuchJobError, JobStateError, NotAllowedError."""
        job = self.store.job(number)
        if not self._may(user, job):
            raise NotAllowedError(f"job {number}: is {job.user}'s; an owner of the queue may cancel it")
        return describe_job(self.store.cancel(number, user.name))

    def pause(self, user: User, reason: str) -> dict[str, Any]:
        """Raises: NotAllowedError."""
        self._check_owner(user)
        self.store.pause(f"{user.name}: {reason}")
        return {"paused": self.store.paused}

    def resume(self, user: User) -> dict[str, Any]:
        """Raises: NotAllowedError."""
        self._check_owner(user)
        self.store.resume()
        return {"paused": ""}

    def video(self, user: User, number: int, name: str) -> Path:
        """The file of a video that `show` named. Raises: NoSuchJobError, NotAllowedError, DataError."""
        if not self._may(user, self.store.job(number)):
            raise NotAllowedError(f"job {number}: is another user's")
        folder = self.store.job_folder(number) / FOLDER
        known = {path.name: path for path in folder.glob("trial_*.mp4")}
        if name not in known:
            raise DataError(f"job {number}: has no video {name[:40]!r}")
        return known[name]

    @staticmethod
    def _may(user: User, job: Job) -> bool:
        return user.owner or job.user == user.name

    @staticmethod
    def _check_owner(user: User) -> None:
        if not user.owner:
            raise NotAllowedError("the maintenance switch is for owners of the queue")

"""Options of the verbs of `gymnast queue`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from gymnast_core.config import PathText, Positive
from gymnast_core.serve.job import JobRequest, Priority, TaskName
from gymnast_core.serve.job_users import USUAL_JOBS
from gymnast_core.serve.listen_config import ListenConfig

Number = Annotated[int, Field(ge=1, lt=2**63)]
WhereText = Annotated[PathText, Field(min_length=1)]
QUEUE = "runs/queue"


@dataclass(frozen=True)
class SubmitConfig(JobRequest):
    """Ask a station for trials of a policy. Prints the job's number."""

    task: tyro.conf.Positional[TaskName]
    """Task of the station."""
    policy_token_env: str = ""
    """Environment variable that holds the token which the job's policy server asks for. The queue keeps the token until
    the job has ended, in a file that its owner alone can read, and shows it to nobody."""
    queue: WhereText = QUEUE
    """Folder of the queue, or the address of `gymnast queue serve` (http://host:port)."""
    config: str = ""
    """Station file that a new queue is for; empty: the queue's own, or simulated_drawer for a new queue."""


@dataclass(frozen=True)
class ListJobsConfig:
    """Show the jobs of a station in the order in which they are to run, and the latest that have ended."""

    queue: WhereText = QUEUE
    """Folder of the queue, or the address of `gymnast queue serve`."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class ShowJobConfig:
    """Show a job, its trials and its result, with the paths of videos. Exit code 1: the job failed."""

    number: tyro.conf.Positional[Number]
    """Number of the job."""
    queue: WhereText = QUEUE
    """Folder of the queue, or the address of `gymnast queue serve`."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class CancelJobConfig:
    """End a job: at once where it waits; where it runs, its trial ends and the arm holds. Trials on record stay."""

    number: tyro.conf.Positional[Number]
    """Number of the job."""
    queue: WhereText = QUEUE
    """Folder of the queue, or the address of `gymnast queue serve`."""


@dataclass(frozen=True)
class PauseQueueConfig:
    """Let no job begin, and stop the one that runs after its trial. It goes on after `gymnast queue resume`."""

    reason: tyro.conf.Positional[Annotated[str, Field(max_length=500)]] = "maintenance"
    """Why, for those who wait."""
    queue: WhereText = QUEUE
    """Folder of the queue, or the address of `gymnast queue serve`."""


@dataclass(frozen=True)
class ResumeQueueConfig:
    """Let jobs go on, the one that was stopped first."""

    queue: WhereText = QUEUE
    """Folder of the queue, or the address of `gymnast queue serve`."""


@dataclass(frozen=True)
class QueueUserConfig:
    """Add a user who may use the queue over HTTP, or change one. Prints a new token, once; an earlier one ends."""

    name: tyro.conf.Positional[str]
    """Name of the user."""
    queue: PathText = QUEUE
    """Folder of the queue."""
    jobs: Annotated[int, Field(ge=1, le=1000)] = USUAL_JOBS
    """Jobs of this user that may wait or run at once."""
    priority: Priority = 0
    """The highest priority that this user may ask for."""
    owner: bool = False
    """May also see and cancel others' jobs, and use the maintenance switch."""
    remove: bool = False
    """Let the user's token end instead."""


@dataclass(frozen=True)
class RunQueueConfig:
    """Run the jobs of a queue on its station, one after the other, until Ctrl-C. Jobs go through the evaluator of the
    ROS graph where one is up, else through the simulated station. A job that was cut short goes on first. At
    night, while no job waits, `gymnast dyna` runs where the station file says `dyna: nightly`."""

    queue: PathText = QUEUE
    """Folder of the queue."""
    config: str = ""
    """Station file that a new queue is for; empty: the queue's own, or simulated_drawer for a new queue."""
    over: Literal["auto", "ros", "simulation"] = "auto"
    """auto: over ROS where an evaluator is in the graph, looked at before each job."""
    namespace: str = ""
    """Namespace of gymnast's own nodes."""
    once: bool = False
    """End when no job waits. Exit code 1: the queue is paused."""
    hours: Positive = 24.0
    """A job that takes longer has failed."""
    job: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Used by the runner itself: do this job alone, in this process."""


@dataclass(frozen=True)
class ServeQueueConfig(ListenConfig):
    """Let users submit jobs over HTTP, each with a token of `gymnast queue user`. Ctrl-C or SIGTERM ends it."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8100
    """0: any free one."""
    max_body: Annotated[float, Field(gt=0, le=1024)] = 0.1
    """Megabytes of one request at most."""
    rate: Annotated[float, Field(ge=0, le=1e6)] = 20.0
    """Requests per second and user at most; further ones are answered with 429. 0: no limit."""
    queue: PathText = QUEUE
    """Folder of the queue."""
    config: str = ""
    """Station file that a new queue is for; empty: the queue's own, or simulated_drawer for a new queue."""

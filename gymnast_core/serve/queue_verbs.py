"""The verbs of `gymnast queue` by which people use a queue; `queue_run.py` and `queue_serve.py` hold the others."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from gymnast_core.commands import gymnast, name_next
from gymnast_core.policy.server_tokens import token_in
from gymnast_core.progress import say
from gymnast_core.serve.job import JobRequest
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.job_users import User, Users
from gymnast_core.serve.job_view import line_of
from gymnast_core.serve.queue_client import open_queue
from gymnast_core.serve.queue_config import (
    CancelJobConfig,
    ListJobsConfig,
    PauseQueueConfig,
    QueueUserConfig,
    ResumeQueueConfig,
    ShowJobConfig,
    SubmitConfig,
)


def submit(config: SubmitConfig) -> int:
    """Add a job and print its number. Raises: ConfigError, DataError."""
    request = JobRequest(**{field.name: getattr(config, field.name) for field in dataclasses.fields(JobRequest)})
    token = token_in(config.policy_token_env, "--policy-token-env") if config.policy_token_env else ""
    job = open_queue(config.queue, config.config).submit(request, token)
    say(line_of(job))
    print(job["number"])
    name_next(gymnast("queue show", str(job["number"]), queue=config.queue))
    return 0


def list_jobs(config: ListJobsConfig) -> int:
    """Print the queue, a job a line. Raises: ConfigError, DataError."""
    found = open_queue(config.queue).overview()
    if config.json:
        print(json.dumps(found))
        return 0
    if found["paused"]:
        print(f"paused: {found['paused']}; `gymnast queue resume` lets jobs go on")
    print("\n".join(line_of(job) for job in found["jobs"]) or "no jobs")
    return 0


def show_job(config: ShowJobConfig) -> int:
    """Print a job with its trials; 1 where it failed. Raises: ConfigError, DataError."""
    job = open_queue(config.queue).show(config.number)
    print(json.dumps(job) if config.json else "\n".join(_lines(job)))
    return int(job["state"] == "failed")


def _lines(job: dict[str, Any]) -> list[str]:
    told = [line_of(job)]
    for name in ("contact", "message", "submitted", "started", "ended"):
        if job.get(name):
            told.append(f"       {name:<9}  {job[name]}")
    result = job.get("result")
    if result and result["success_rate"] is not None:
        error = result["standard_error"]
        told.append(f"       success    {result['success_rate']:.2f} ± {error:.2f} ({len(result['outcomes'])} trials)")
    for trial in job.get("trial_records", ()):
        told.append(
            f"       trial {trial['trial'] + 1:>4}: {trial['outcome']:<9}  seed {trial['seed']}, {trial['steps']} steps"
            f"{', ' + trial['video'] if trial['video'] else ''}"
        )
    return told


def cancel_job(config: CancelJobConfig) -> int:
    """End a job. Raises: ConfigError, DataError."""
    job = open_queue(config.queue).cancel(config.number)
    print(line_of(job))
    return 0


def pause_queue(config: PauseQueueConfig) -> int:
    """Turn the maintenance switch on. Raises: ConfigError, DataError."""
    print(f"paused: {open_queue(config.queue).pause(config.reason)['paused']}")
    return 0


def resume_queue(config: ResumeQueueConfig) -> int:
    """Turn the maintenance switch off. Raises: ConfigError, DataError."""
    open_queue(config.queue).resume()
    print("jobs go on")
    return 0


def set_user(config: QueueUserConfig) -> int:
    """Add or change a user and print the token, or remove one. Raises: ConfigError, DataError."""
    users = Users(JobStore(config.queue))
    if config.remove:
        users.remove(config.name)
        print(f"removed {config.name}")
        return 0
    token = users.set(User(config.name, config.jobs, config.priority, config.owner))
    say(f"the token of {config.name}, which is shown this once:")
    print(token)
    return 0

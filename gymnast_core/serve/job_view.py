"""A job as it is shown: one JSON object for the terminal and for HTTP, without what is nobody else's business."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnast_core.data.outcome import OUTCOMES
from gymnast_core.errors import DataError
from gymnast_core.evaluation.session import TrialsResult, read_records
from gymnast_core.results import read_result
from gymnast_core.serve.job import OPEN, Job
from gymnast_core.serve.job_films import FOLDER, film_of
from gymnast_core.serve.job_store import JobStore

PRIVATE = ("policy", "contact", "message", "cancelled_by")
"""Shown to a job's user and to owners of the queue."""


def describe_job(job: Job, whole: bool = True) -> dict[str, Any]:
    """A job as one flat JSON object. whole: with what is for its user and for owners alone."""
    content = dataclasses.asdict(job)
    content |= content.pop("request")
    return {name: value for name, value in content.items() if whole or name not in PRIVATE}


def describe_result(store: JobStore, job: Job, video: str = "") -> dict[str, Any]:
    """A job with its trials so far and, once it has ended, its result.

    video: put before a video's name, so that it is a link; empty: the path of its file.
    """
    folder = store.job_folder(job.number)
    before = video or f"{folder / FOLDER}/"
    trials = []
    for record in read_records(folder):
        film = film_of(record.trial)
        trials.append(
            {
                "trial": record.trial,
                "seed": record.seed,
                "outcome": OUTCOMES[record.outcome],
                "truth": record.truth,
                "judge_score": record.judge_score,
                "steps": record.steps,
                "seconds": record.seconds,
                "attempts": record.attempts,
                "message": record.message,
                "video": f"{before}{film}" if (folder / FOLDER / film).exists() else None,
            }
        )
    result: dict[str, Any] | None = None
    if job.state not in OPEN:
        try:
            found = read_result(TrialsResult, folder)
            hidden = ("episode_paths", "run_folder") if video else ()
            result = {name: value for name, value in dataclasses.asdict(found).items() if name not in hidden}
        except DataError:  # cancelled before it began
            result = None
    return {**describe_job(job), "result": result, "trial_records": trials}


def line_of(job: dict[str, Any]) -> str:
    """For a list: number, state, progress, and what is asked for."""
    urgent = f", priority {job['priority']:+d}" if job["priority"] else ""
    ending = " (to be cancelled)" if job.get("cancelled_by") and job["state"] in OPEN else ""
    doing = f" ({job['message']})" if job["state"] == "running" and job.get("message") else ""
    policy = f", {job['policy']}" if "policy" in job else ""
    return (
        f"{job['number']:>5}  {job['state']:<9}  {job['trials_done']}/{job['trials']} trials, "
        f"{job['successes']} succeeded  {job['task']}{policy}, by {job['user']}{urgent}{doing}{ending}"
    )

"""A job of a station's queue: what its user asks for, and what has become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gymnast_core.addresses import policy_server_problem
from gymnast_core.errors import ConfigError
from gymnast_core.policy.names import ADAPTER, BASE, read_name

FIRST_SEED = 800_000
"""Seeds from here on were not used to collect any training data."""
PRIORITIES = (-9, 9)
State = Literal["waiting", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("waiting", "running", "done", "failed", "cancelled")
OPEN: tuple[State, ...] = ("waiting", "running")
LINE = r"^[^\x00-\x1f\x7f]*$"


def is_address(policy: str) -> bool:
    """Whether a job's policy is a policy server's address."""
    return "://" in policy and not policy.startswith("look-ahead")


def _check_policy(policy: str) -> str:
    if is_address(policy):
        if wrong := policy_server_problem(policy):
            raise ValueError(wrong)
        return policy
    try:
        acts = read_name(policy).acts
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("policy: ")) from error
    if not ADAPTER.fullmatch(acts) or acts == "practise":
        raise ValueError(
            f"needed '{BASE}', an adapter's name, look-ahead: and one of these, or a policy server's address (http:// "
            "or ws://)"
        )
    return policy


TaskName = Annotated[str, Field(min_length=1, max_length=100, pattern=LINE)]
PolicyName = Annotated[str, Field(max_length=500), AfterValidator(_check_policy)]
Contact = Annotated[str, Field(max_length=200, pattern=LINE)]
Priority = Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[1])]
TrialCount = Annotated[int, Field(ge=1, le=1000)]
FirstSeed = Annotated[int, Field(ge=0, lt=2**31)]
Steps = Annotated[int, Field(ge=0, le=1000)]


@dataclass(frozen=True)
class JobRequest:
    """What a user asks a station for: trials of a policy at a task."""

    task: TaskName
    """Task of the station."""
    policy: PolicyName = BASE
    """ "base" (the station's own policy), an adapter's name, either behind "look-ahead:" or "look-ahead-16:" (it then
    looks ahead, with 16 candidates), or a policy server's address (http:// or ws://)."""
    trials: TrialCount = 20
    """Trials of the policy."""
    contact: Contact = ""
    """Whom to ask about this job: an address, a name, a channel."""
    priority: Priority = 0
    """Jobs of higher priority go first; equal ones in the order in which they came."""
    first_seed: FirstSeed = FIRST_SEED
    """Trial k is reset by seed first_seed + k."""
    max_steps: Steps = 0
    """Of each trial; 0: as the station says for the task."""


@dataclass(frozen=True)
class Job:
    """A job on record. number: counts from 1, in the order of arrival. trials_done, successes: so far. submitted,
    started, ended: UTC, ISO 8601, "" where that has not come. cancelled_by: who asked for its end, "" where nobody did.
    starts: how often a process began, or went on with, its trials."""

    number: int
    user: str
    request: JobRequest
    state: State
    submitted: str
    started: str = ""
    ended: str = ""
    trials_done: int = 0
    successes: int = 0
    starts: int = 0
    cancelled_by: str = ""
    message: str = ""

"""Options of `gymnast trials` and `gymnast trials compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from gymnast_core.config import Positive, Seed


@dataclass(frozen=True)
class TrialsOptions:
    """Trials of one or several policies on a station: from the same resets, in an order that the seed draws. Exit code
    0: all trials were done; 1: something broke them off; 130: you did."""

    config: tyro.conf.Positional[str] = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    policies: Annotated[tuple[str, ...], Field(min_length=1, max_length=50)] = ("base",)
    """The policies: "base" (the station file's own), an adapter's name, a checkpoint folder (with a slash), each of
    these behind "look-ahead:" or "look-ahead-16:" (it then imagines 16 candidates before each chunk), recorded actions
    (.npz), a policy server's address (http:// or ws://host:port); over ROS also "practise", which adapts before each
    trial. The first one is what the others are compared with."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--task"])] = ()
    """Tasks; none: all of the station's."""
    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Resets of each task; every policy is tried once from each."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """Repetitions of all these trials, each from further resets, for standard errors over repeats."""
    stop_when_clear: bool = False
    """End when each further policy is clearly better or worse than the first."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Largest probability that any of these verdicts, over all tasks, is wrong."""
    max_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Steps after which an episode ends; 0: as the station file says for the task."""
    seconds: Positive | None = None
    """Begin no further trial after this much wall-clock time of this call. None: no limit."""
    policy_token_env: tuple[str, ...] = ()
    """Tokens of policy servers that act or reset here, each an ADDRESS=VARIABLE: the environment variable that holds
    the token for that address. It goes to no other one. The station file has the same: `models.policy_token_env`."""
    where: Literal["auto", "here", "graph"] = "auto"
    """"here": simulate, in this process, without ROS. "graph": over ROS, on the station that `gymnast up` has brought
    up. "auto": here where the station file has a simulation section, else over ROS."""
    namespace: str = ""
    """Namespace of gymnast's own nodes, over ROS."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    run: str = ""
    """Run folder; empty: a new one below runs/trials. One that was cut short goes on, and repeats no trial."""
    seed: Seed = 0
    """Decides the resets and the order of policies."""


@dataclass(frozen=True)
class CompareRunsOptions:
    """Compare trials of different days: what they found, and what else differed between them."""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], Field(min_length=2, max_length=20)]]
    """Run folders of `gymnast trials`, or of trials over ROS; the first is what the others are compared with."""
    out: str = ""
    """Folder for the page; empty: a new one below runs/trials."""

"""`gymnast demo`: the whole job on the simulated station. Options here; the rest is a ROS client, `gymnast_nodes.demo`.

This process becomes that client: the demo reaches the station through the ROS graph alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import NotNegative, Seed
from gymnast_core.ros_client import become_ros_client


@dataclass(frozen=True)
class DemoConfig:
    """Bring the station up, try the base policy, practise from several frames, let the robot have the last word on the
    adapter, write a report."""

    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    task: str = "close_drawer"
    """Task of the station file."""
    trials: Annotated[int, Field(ge=1, le=100)] = 5
    """Trials of the base policy before practice."""
    frames: Annotated[int, Field(ge=0, le=64)] = 4
    """Start frames of practice, each of another reset; 0: as the station file says."""
    canary_trials: Annotated[int, Field(ge=0, le=1000)] = 12
    """At most this many pairs of trials, base against adapter, after the gate; 0: as the station file says."""
    iterations: Annotated[int, Field(ge=0), tyro.conf.arg(aliases=["--updates"])] = 0
    """At most this many updates of practice; 0: as the station file says."""
    seconds: NotNegative = 0.0
    """Training time of the adaptation; 0: as the station file says."""
    seed: Seed = 0
    """Seed of the test frame and of practice; trials use the seeds after it."""
    run: str = ""
    """Run folder; empty: a new one below runs/demo."""
    json: bool = False
    """Print the result as JSON to the standard output, and everything else to the standard error."""


def demo(config: DemoConfig) -> int:
    """Replace this process by the ROS client. Raises: ConfigError when there is no ROS 2 to be a client of."""
    become_ros_client("demo", dataclasses.asdict(config))

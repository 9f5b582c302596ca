"""`gymnast arm check`: whether an arm behind gymnast's interface keeps the contract. Options and the table; the checks
themselves are a ROS client (`gymnast_nodes.arm_check_client`)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.ros_client import become_ros_client
from gymnast_core.station_file import find_station_file

Verdict = Literal["kept", "broken", "skipped"]


@dataclass(frozen=True)
class ArmCheckConfig:
    """Move the arm through a suite of checks that any driver must pass: timing, motion, units, gripper, limits, stale
    and disordered actions, hold, stop, silence, reboot. Exit code 0: the contract is kept; 1: it is not.

    A running station is used where there is one. Otherwise the arm's part of the graph is started on the driver, and
    ended afterwards. A real arm is moved only after you said yes."""

    config: tyro.conf.Positional[str]
    """Station file: a path, or the name of a shipped one."""
    only: tuple[str, ...] = ()
    """Names of the checks to run; none: all of them."""
    yes: bool = False
    """Do not ask before a real arm moves: somebody stands beside it."""
    seconds: Annotated[float, Field(ge=1.0, le=300.0)] = 60.0
    """How long the arm may take to be ready."""
    namespace: str = ""
    """Namespace of gymnast's own nodes."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class CheckRow:
    """What one check found. verdict: "skipped" where this arm cannot be checked so. found: for people, one line."""

    name: str
    verdict: Verdict
    found: str


def arm_check(config: ArmCheckConfig) -> int:
    """Ask where the arm is real, then replace this process by the ROS client.

    Raises: ConfigError for a wrong station file, where nobody can be asked, or where there is no ROS 2.
    """
    station = load_config(StationConfig, find_station_file(config.config))
    if station.simulation is None and not config.yes and not _agreed(station):
        print("nothing was moved", file=sys.stderr)
        return 1
    return become_ros_client("arm_check_client", dataclasses.asdict(config))


def _agreed(station: StationConfig) -> bool:
    """Whether somebody at the terminal lets the arm move."""
    if not sys.stdin.isatty():
        raise ConfigError(f"station '{station.name}' has a real arm, and nobody can be asked here; give --yes")
    low, high = station.safety.workspace_min, station.safety.workspace_max
    print(
        f"The arm of station '{station.name}' will move for about half a minute, within x {low[0]:g} to {high[0]:g}, "
        f"y {low[1]:g} to {high[1]:g}, z {low[2]:g} to {high[2]:g} m. Clear the workspace, and keep a hand at the "
        "power switch.",
        file=sys.stderr,
    )
    return input("Type yes to begin: ").strip().lower() == "yes"


def table(rows: Sequence[CheckRow]) -> str:
    """The rows for a terminal, and a last line that sums them up."""
    width = max(len(row.name) for row in rows)
    lines = [f"{row.name:<{width}}  {row.verdict:<7}  {row.found}" for row in rows]
    broken = [row.name for row in rows if row.verdict == "broken"]
    skipped = sum(row.verdict == "skipped" for row in rows)
    last = f"broken: {', '.join(broken)}" if broken else f"the contract is kept ({len(rows) - skipped} checks)"
    return "\n".join([*lines, f"{last}; {skipped} skipped" if skipped else last])

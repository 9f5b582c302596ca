"""`gymnast soak`: the simulated station at work for hours, with faults at random times. Options, result and table; the
work itself is a ROS client (`gymnast_nodes.soak_client`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import Seed, StationConfig, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.reporting.tables import columns
from gymnast_core.ros_client import become_ros_client
from gymnast_core.station_file import find_station_file


@dataclass(frozen=True)
class SoakConfig:
    """Bring the simulated station up, let it work at its rate, and inject faults at random times. Exit code 0: every
    fault was noticed and passed; 1: one was not, or the station did not come back from it."""

    config: tyro.conf.Positional[str] = "simulated_drawer"
    """Station file of a simulated station: a path, or the name of a shipped one."""
    hours: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 0.0
    """How long."""
    minutes: Annotated[float, Field(ge=0, le=600_000, allow_inf_nan=False)] = 0.0
    """How long, added to the hours; both 0: each kind of fault once."""
    kinds: tuple[str, ...] = ()
    """Kinds of faults (docs/reference/faults.md), none: all of them."""
    without: tuple[str, ...] = ()
    """Nodes to leave out; without the executor, the arm is driven by this command instead of by episodes."""
    seed: Seed = 0
    """Decides kinds, motors, times and durations."""
    run: str = ""
    """Run folder; empty: a new one below runs/soak."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class KindRow:
    """What became of one kind of fault.

    noticed: times it was: the arm was held or stopped, the episode ended, or a warning was given, as the kind has it.
        A kind that does no harm counts as noticed where nothing stopped.
    held: times no target moved after that. recovered: times the station worked again. rearmed: of these, those after a
        stop that a person would have released. lost: times it did not work again by itself.
    seconds: from the fault to its being noticed.
    """

    kind: str
    injected: int = 0
    noticed: int = 0
    held: int = 0
    recovered: int = 0
    rearmed: int = 0
    lost: int = 0
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class SoakResult:
    """A soak, whole or cut short. load: of the machine over a minute, at the start and at the end."""

    station: str
    minutes: float
    episodes: int
    actions: int
    seed: int
    kinds: tuple[KindRow, ...] = ()
    problems: tuple[str, ...] = ()
    load: tuple[float, ...] = field(default_factory=tuple)
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether every fault was noticed, held and recovered from."""
        rows = self.kinds
        return not self.problems and all(r.injected == r.noticed == r.held == r.recovered for r in rows)


HEAD = ("kind", "injected", "noticed", "held", "recovered", "re-armed", "lost", "noticed after (s): median", "most")


def rows_of(result: SoakResult) -> list[tuple[str, ...]]:
    """The table, its head first and the sum last."""
    rows: list[tuple[str, ...]] = [HEAD]
    for row in result.kinds:
        times = sorted(row.seconds)
        median = f"{times[len(times) // 2]:.2f}" if times else "-"
        rows.append((row.kind, *_counts((row,)), median, f"{times[-1]:.2f}" if times else "-"))
    rows.append(("all", *_counts(result.kinds), "", ""))
    return rows


def _counts(rows: Sequence[KindRow]) -> tuple[str, ...]:
    names = ("injected", "noticed", "held", "recovered", "rearmed", "lost")
    return tuple(str(sum(getattr(row, name) for row in rows)) for name in names)


def table(result: SoakResult) -> str:
    """For a terminal."""
    return columns(rows_of(result))


def soak(config: SoakConfig) -> int:
    """Replace this process by the ROS client. Raises: ConfigError for a real arm, an unknown kind, or without ROS 2."""
    from gymnast_core.simulation.faults import KINDS

    station = load_config(StationConfig, find_station_file(config.config))
    if station.simulation is None:
        raise ConfigError(f"soak: station '{station.name}' has a real arm; only simulated ones take faults")
    unknown = [kind for kind in config.kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"kinds: found '{unknown[0]}', allowed are {', '.join(KINDS)}")
    become_ros_client("soak_client", dataclasses.asdict(config))

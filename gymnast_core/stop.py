"""`gymnast stop` and `gymnast rearm`: the emergency stop from a shell, whatever is alive of the station.

The stop is latched on this machine's disk first, where the arm node and the watchdog find it within 0.1 s; then, as a
ROS client (`gymnast_nodes.stop_client`), the command asks for it, so that it also works from another machine.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.robot.stop_latch import StopLatch, known_stop_files, stop_file, usual_stop_files
from gymnast_core.ros_client import become_ros_client, has_ros
from gymnast_core.station_file import find_station_file


@dataclass(frozen=True)
class StopConfig:
    """Hold the arm where it is, until it is re-armed. Exit code 0: the stop is latched on disk; 1: it is not."""

    config: tyro.conf.Positional[str] = ""
    """Station file: a path, or the name of a shipped one. Without it: every arm that ever ran on this machine."""
    reason: Annotated[str, Field(max_length=500)] = "gymnast stop"
    """Why, for the people who find the arm stopped."""
    namespace: str = ""
    """Namespace of gymnast's own nodes."""


@dataclass(frozen=True)
class RearmConfig:
    """Release the emergency stop, after a look at the arm. Exit code 0: the arm is armed; 1: it is not."""

    config: tyro.conf.Positional[str] = ""
    """Station file: a path, or the name of a shipped one. Without it: the arm of this namespace."""
    namespace: str = ""
    """Namespace of gymnast's own nodes."""


def stop(config: StopConfig) -> int:
    """Latch the stop here and in the graph. Raises: ConfigError for a wrong station file."""
    paths = _stop_files(config.config)
    problems = []
    for path in paths:
        try:
            StopLatch(path).set(config.reason)
        except DataError as error:
            problems.append(str(error))
    problem = "; ".join(problems)
    if not has_ros():
        said = problem or f"latched in {', '.join(map(str, paths))}"
        print(f"{said}; there is no ROS 2 in this shell (`source tools/env.sh`) to ask whether the arm holds")
        return 1 if problem else 0
    return _client("stop", config, paths, problem)


def rearm(config: RearmConfig) -> int:
    """Ask the arm node to check the arm and to release the stop. Raises: ConfigError where nobody can be asked."""
    if not has_ros():
        raise ConfigError("no ROS 2 in this shell; run `make setup` and `source tools/env.sh` first")
    # The arm nodes of this machine release their own arms' stops; another's are released here, once it is armed.
    paths = [] if not config.config and known_stop_files() else _stop_files(config.config)
    return _client("rearm", config, paths, "")


def _stop_files(station_file: str) -> list[Path]:
    """Of one station's arm, or of all there may be. Raises: ConfigError."""
    if station_file:
        return [stop_file(load_config(StationConfig, find_station_file(station_file)))]
    return known_stop_files() or usual_stop_files()


def _client(verb: str, config: StopConfig | RearmConfig, paths: list[Path], problem: str) -> int:
    """Replace this process by the ROS client."""
    words = {"verb": verb, "paths": [str(path) for path in paths], "problem": problem}
    become_ros_client("stop_client", {**words, **dataclasses.asdict(config)})

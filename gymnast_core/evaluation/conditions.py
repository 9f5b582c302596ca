"""The conditions under which trials ran: station file, weights, version. Kept with a run, and compared between runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gymnast_core.config import StationConfig
from gymnast_core.contents import one_line
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import write_json
from gymnast_core.results import read_record
from gymnast_core.station_file import StationFile
from gymnast_core.version import describe_version

CONDITIONS = "conditions.json"
APART = ("version", "models.device", "models.policy_token_env", "evaluation.page.")
"""What a run may go on with other values of: conditions whose names begin so."""


@dataclass(frozen=True)
class Conditions:
    """Under which trials ran, written to conditions.json when they begin.

    began: UTC, ISO 8601. where: "here" (simulated, without ROS) or "graph". weights: of each policy, a fingerprint;
    empty where this machine cannot tell. settings: the station file, each field by its dotted name, as JSON.
    """

    station: str
    began: str
    version: str
    where: str
    weights: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def now(cls, station: StationFile, where: str, weights: dict[str, str]) -> Conditions:
        """Of trials that begin now."""
        return cls(
            station=station.config.name,
            began=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            version=describe_version(),
            where=where,
            weights=weights,
            settings=dict(_flat(dataclasses.asdict(station.config), "")),
        )


@dataclass(frozen=True)
class Change:
    """One condition that differs between two runs, with both values in words."""

    what: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.what}: {one_line(self.first, 60)} then, {one_line(self.second, 60)} now"


def changes_between(first: Conditions, second: Conditions) -> list[Change]:
    """What differs, the weights first. Weights that one of them does not know are passed over. A field that one of them
    does not have came with a later version: it had its default."""
    found = []
    defaults = dict(_flat(dataclasses.asdict(StationConfig("default", {})), ""))
    for name in sorted(first.weights.keys() & second.weights.keys()):
        one, other = first.weights[name], second.weights[name]
        if one and other and one != other:
            found.append(Change(f"weights of {name}", one, other))
    for name in ("station", "where", "version"):
        if (one := getattr(first, name)) != (other := getattr(second, name)):
            found.append(Change(name, one, other))
    for name in sorted(first.settings.keys() | second.settings.keys()):
        one, other = (side.settings.get(name, defaults.get(name, "absent")) for side in (first, second))
        if one != other:
            found.append(Change(name, one, other))
    return found


def keep_conditions(run: Path, now: Conditions) -> Conditions:
    """Write them when trials begin; of trials that go on, see that they are the same, and return those of the start.

    Raises: ConfigError naming what has changed since, DataError when the file is damaged or cannot be written.
    """
    path = run / CONDITIONS
    if not path.exists():
        write_json(path, dataclasses.asdict(now))
        return now
    before = read_conditions(run)
    changed = [change for change in changes_between(before, now) if not change.what.startswith(APART)]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ConfigError(f"{run}: holds trials under other conditions; {changed[0]}{more}; choose another --run")
    return before


def read_conditions(run: Path) -> Conditions:
    """Those of a run. Raises: DataError when there are none, or they are damaged."""
    try:
        return read_record(Conditions, run / CONDITIONS)
    except CheckpointError as error:
        raise DataError(str(error)) from error


def _flat(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)

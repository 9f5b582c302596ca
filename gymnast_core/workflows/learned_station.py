"""The station file of models that have learned: the same station but for world models and learned judges.

The base policy stays what it is, so adapters of earlier rounds and the executor's policy remain valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnast_core.config import AdaptationConfig, StationConfig
from gymnast_core.errors import ConfigError
from gymnast_core.station_file import StationFile, open_station

WORLD_MODEL, SECOND, JUDGE, GATE_JUDGE = "world_model", "second_world_model", "judge", "gate_judge"
"""What learns, by what it is in the station file."""


def with_models(station: StationConfig, new: Mapping[str, Path]) -> StationConfig:
    """The config with new models, each by what it is (WORLD_MODEL, SECOND, JUDGE, GATE_JUDGE); the rest is the same."""
    models = dataclasses.replace(
        station.models,
        world_model=str(new.get(WORLD_MODEL, station.models.world_model)),
        second_world_model=str(new.get(SECOND, station.models.second_world_model)),
    )
    judge = dataclasses.replace(station.judge, checkpoint=str(new[JUDGE])) if JUDGE in new else station.judge
    adaptation: AdaptationConfig = station.adaptation
    if GATE_JUDGE in new:
        gate = adaptation.gate_judge
        folder = str(new[GATE_JUDGE])
        changed = folder if isinstance(gate, str) else dataclasses.replace(gate, checkpoint=folder)
        adaptation = dataclasses.replace(adaptation, gate_judge=changed)
    return dataclasses.replace(station, models=models, judge=judge, adaptation=adaptation)


def open_round(own: StationFile, name: str) -> StationFile:
    """A round's station file, opened. own: the station's. Raises: ConfigError where it is of another station: the arm,
    its envelope, the tasks and the base policy must be the same."""
    found = open_station(name)
    here, there = _without_models(own), _without_models(found)
    for key, value in here.items():
        if there[key] != value:
            raise ConfigError(
                f"station_file: {found.path}: section '{key}' differs from {own.path}; needed the same station with "
                "other world models or learned judges, as `gymnast learn` writes it"
            )
    return found


def _without_models(station: StationFile) -> dict[str, Any]:
    """All of a station file that learning leaves as it is."""
    config = with_models(station.portable(), dict.fromkeys((WORLD_MODEL, SECOND, JUDGE, GATE_JUDGE), Path()))
    return dataclasses.asdict(config)

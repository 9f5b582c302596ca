"""Which station a queue is for: said once, by whoever makes the queue."""

from __future__ import annotations

from pathlib import Path

from gymnast_core.config import StationConfig
from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path
from gymnast_core.policy.names import BASE, read_name
from gymnast_core.serve.job import JobRequest, is_address
from gymnast_core.serve.job_store import JobStore
from gymnast_core.station_file import StationFile, find_station_file, open_station

STATION = "station"
"""Fact of a queue: its station file."""
USUAL = "simulated_drawer"


def station_of(store: JobStore, given: str) -> StationFile:
    """The queue's station. given: the station file that was named, "" for none.

    Raises: ConfigError for a file that is wrong, or another one than the queue's.
    """
    known = store.fact(STATION)
    if given and known and find_station_file(given) != Path(known):
        raise ConfigError(
            f"--config: found {find_station_file(given)}, but {store.folder} is the queue of {known}; choose --queue"
        )
    opened = open_station(known or given or USUAL)
    if not known:
        store.set_fact(STATION, str(opened.path))
    return opened


def open_queue_station(store: JobStore) -> StationFile | None:
    """The station of a queue, for one of its jobs; None where the file is wrong: the queue is paused, the job kept.

    Raises: DataError.
    """
    try:
        return station_of(store, "")
    except ConfigError as error:
        store.pause(str(error))
        return None


def check_request(request: JobRequest, station: StationConfig) -> None:
    """See what can be seen now, at no cost, to be wrong with a job. Raises: ConfigError."""
    station.task(request.task)
    if is_address(request.policy):
        return
    acts = read_name(request.policy).acts
    folder = user_path(station.models.adapters, "models.adapters")
    if acts != BASE and not (folder / acts).is_dir():
        raise ConfigError(f"policy: found {request.policy}; there is no such adapter on this station")

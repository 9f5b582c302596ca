"""`gymnast adapter list` and `gymnast adapter remove`: the adapted policies kept on this machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from gymnast_core.errors import CheckpointError

if TYPE_CHECKING:
    from gymnast_core.policy.adapters import AdapterRecord, AdapterStore


@dataclass(frozen=True)
class ListAdaptersConfig:
    """Show the adapters of a folder."""

    adapters: str = "runs/adapters"
    """Folder of adapters."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class RemoveAdapterConfig:
    """Delete one adapter."""

    name: tyro.conf.Positional[str]
    """Its name, as `gymnast adapter list` shows it."""
    adapters: str = "runs/adapters"
    """Folder of adapters."""


def list_adapters(config: ListAdaptersConfig) -> int:
    """Print a line for each adapter, oldest first, its name in front so that it can be copied; unreadable ones last."""
    from gymnast_core.policy.adapters import AdapterStore  # it imports torch

    store = AdapterStore(config.adapters)
    records = store.list()
    states = {record.name: store.evidence(record.name).words for record in records}
    broken = _broken(store, sorted(set(store.names()) - set(states)))
    if config.json:
        known = [{**dataclasses.asdict(record), "state": states[record.name]} for record in records]
        print(json.dumps({"adapters": known, "unreadable": broken}, default=str))
        return 0
    for record in records:
        print(_line(record, states[record.name]))
    for name, problem in broken.items():
        print(f"{name}  unreadable: {problem}")
    if not store.names():
        print(f"{config.adapters}: no adapters")
    return 0


def _broken(store: AdapterStore, names: Iterable[str]) -> dict[str, str]:
    """Why each of these adapters cannot be read."""
    found: dict[str, str] = {}
    for name in names:
        try:
            store.read(name)
        except CheckpointError as error:
            found[name] = str(error)
    return found


def _line(record: AdapterRecord, state: str) -> str:
    made = f"{record.station or '-'} / {record.task or '-'}, {record.created[:19]}, rank {record.rank}"
    metrics = "  ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
    return " ".join(f"{record.name}  {state}  ({made}, base {record.base})  {metrics}".splitlines()).rstrip()


def remove_adapter(config: RemoveAdapterConfig) -> int:
    """Delete it. Raises: CheckpointError that lists those present when it is not there."""
    from gymnast_core.policy.adapters import AdapterStore

    AdapterStore(config.adapters).remove(config.name)
    print(f"removed {config.name}")
    return 0

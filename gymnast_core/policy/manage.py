"""`gymnast adapters list` and `gymnast adapters remove`: the adapted policies kept on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from gymnast_core.errors import CheckpointError
from gymnast_core.policy.adapters import AdapterRecord, AdapterStore


@dataclass(frozen=True)
class ListAdaptersConfig:
    """Show the adapters of a folder."""

    adapters: str = "runs/adapters"
    """Folder of adapters."""


@dataclass(frozen=True)
class RemoveAdapterConfig:
    """Delete one adapter."""

    name: tyro.conf.Positional[str]
    """Its name, as `gymnast adapters list` shows it."""
    adapters: str = "runs/adapters"
    """Folder of adapters."""


def list_adapters(config: ListAdaptersConfig) -> int:
    """Print one adapter a line, oldest first, its name in front so that it can be copied; unreadable ones last."""
    store = AdapterStore(config.adapters)
    records = store.list()
    for record in records:
        print(_line(record))
    for name in sorted(set(store.names()) - {record.name for record in records}):
        try:
            store.read(name)
        except CheckpointError as error:
            print(f"{name}  unreadable: {error}")
    if not store.names():
        print(f"{config.adapters}: no adapters")
    return 0


def _line(record: AdapterRecord) -> str:
    made = f"{record.station or '-'} / {record.task or '-'}, {record.created[:19]}, rank {record.rank}"
    metrics = "  ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
    return " ".join(f"{record.name}  ({made}, base {record.base})  {metrics}".splitlines()).rstrip()


def remove_adapter(config: RemoveAdapterConfig) -> int:
    """Delete it. Raises: CheckpointError that lists those present when it is not there."""
    AdapterStore(config.adapters).remove(config.name)
    print(f"removed {config.name}")
    return 0

"""`gymnast adapter list` and `gymnast adapter remove`: the adapted policies kept on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from gymnast_core.errors import CheckpointError

if TYPE_CHECKING:
    from gymnast_core.policy.adapters import AdapterRecord


@dataclass(frozen=True)
class ListAdaptersConfig:
    """Show the adapters of a folder."""

    adapters: str = "runs/adapters"
    """Folder of adapters."""


@dataclass(frozen=True)
class RemoveAdapterConfig:
    """Delete one adapter."""

    name: tyro.conf.Positional[str]
    """Its name, as `gymnast adapter list` shows it."""
    adapters: str = "runs/adapters"
    """Folder of adapters."""


def list_adapters(config: ListAdaptersConfig) -> int:
    """Print one adapter a line, oldest first, its name in front so that it can be copied; unreadable ones last."""
    from gymnast_core.policy.adapters import AdapterStore  # it imports torch

    store = AdapterStore(config.adapters)
    records = store.list()
    for record in records:
        print(_line(record, store.evidence(record.name).words))
    for name in sorted(set(store.names()) - {record.name for record in records}):
        try:
            store.read(name)
        except CheckpointError as error:
            print(f"{name}  unreadable: {error}")
    if not store.names():
        print(f"{config.adapters}: no adapters")
    return 0


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

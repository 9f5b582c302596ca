"""`gymnast adapters list` and `gymnast adapters remove`: the adapted policies kept on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.policy.adapters import AdapterStore


@dataclass(frozen=True)
class ListAdaptersConfig:
    """Show the adapters of a folder."""

    adapters: str = "runs/adapters"
    """Folder of adapters."""


@dataclass(frozen=True)
class RemoveAdapterConfig:
    """Delete one adapter."""

    name: str
    """Its name, as `gymnast adapters list` shows it."""
    adapters: str = "runs/adapters"
    """Folder of adapters."""


def list_adapters(config: ListAdaptersConfig) -> int:
    """Print one adapter a line, oldest first, its name in front so that it can be copied."""
    records = AdapterStore(config.adapters).list()
    for record in records:
        metrics = "  ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
        made = f"{record.station or '-'} / {record.task or '-'}, {record.created[:19]}, rank {record.rank}"
        print(f"{record.name}  ({made}, base {record.base})  {metrics}".rstrip())
    if not records:
        print(f"{config.adapters}: no adapters")
    return 0


def remove_adapter(config: RemoveAdapterConfig) -> int:
    """Delete it. Raises: CheckpointError that lists those present when it is not there."""
    AdapterStore(config.adapters).remove(config.name)
    print(f"removed {config.name}")
    return 0

"""From a name in a config to a policy: one place that knows the kinds there are."""

from __future__ import annotations

import os
from pathlib import Path

from gymnast_core.errors import CheckpointError
from gymnast_core.policy.adapters import AdapterStore, activate
from gymnast_core.policy.openvla import load_policy
from gymnast_core.policy.scripted import load_script
from gymnast_core.protocols import Policy


def open_policy(
    path: str | os.PathLike[str],
    unnorm_key: str | None = None,
    device: str = "auto",
    adapter: str = "",
    adapters: str | os.PathLike[str] = "runs/adapters",
) -> Policy:
    """A checkpoint folder (OpenVLA layout), with one stored adapter active if named, or a script (`.npz`).

    Raises: CheckpointError or DataError, one line.
    """
    path = Path(path)
    if path.suffix == ".npz":
        if adapter:
            raise CheckpointError(f"{path}: a script takes no adapter, found '{adapter}'")
        return load_script(path)
    policy = load_policy(path, unnorm_key, device)
    if adapter:
        AdapterStore(adapters).load(policy, adapter)
        activate(policy, adapter)
    return policy

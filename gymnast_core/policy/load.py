"""From a name in a config to a policy: one place that knows the kinds there are."""

from __future__ import annotations

import os

from gymnast_core.config import find_model
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy.adapters import AdapterStore, activate
from gymnast_core.policy.names import HTTP, REMOTE
from gymnast_core.policy.openvla import load_policy
from gymnast_core.policy.remote import RemotePolicy
from gymnast_core.policy.scripted import load_script
from gymnast_core.protocols import Policy


def open_policy(
    name: str | os.PathLike[str],
    unnorm_key: str | None = None,
    device: str = "auto",
    adapter: str = "",
    adapters: str | os.PathLike[str] = "runs/adapters",
    beside: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Policy:
    """A checkpoint folder (OpenVLA layout), with one stored adapter active if named; a script (`.npz`); or a policy
    server's address: `http://host:port` as AutoEval's speak, `ws://host:port` as openpi's.

    beside: the station file that relative folders are looked up beside. token: that a policy server is sent, "" for
    none; None: that of this process (GYMNAST_POLICY_TOKEN).

    Raises: ConfigError, CheckpointError or DataError, one line.
    """
    text = os.fspath(name)
    other = "a policy server" if text.startswith(REMOTE) else "a script" if text.endswith(".npz") else ""
    if other and adapter:
        raise CheckpointError(f"{text}: {other} takes no adapter, found '{adapter}'")
    if text.startswith(REMOTE):
        return _open_remote(text, token)
    path = find_model(text, beside)
    if path.suffix == ".npz":
        return load_script(path)
    policy = load_policy(path, unnorm_key, device)
    if adapter:
        AdapterStore(adapters).load(policy, adapter)
        activate(policy, adapter)
    return policy


def _open_remote(address: str, token: str | None) -> Policy:
    """Raises: ConfigError (no address, or a package is missing), DataError (no policy server answers)."""
    if address.startswith(HTTP):
        return RemotePolicy(address, token=token)
    try:
        from gymnast_core.policy.remote_websocket import WebSocketPolicy
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{address}: needs the Python package '{error.name}'; pip install -e '.[serve]', or use http://"
        ) from error
    return WebSocketPolicy(address, token=token)


def check_policy(name: str | os.PathLike[str], beside: str | os.PathLike[str] | None = None) -> None:
    """See that there is such a policy, at no cost. Raises: ConfigError that says where it was looked for."""
    if not os.fspath(name).startswith(REMOTE):
        find_model(os.fspath(name), beside)

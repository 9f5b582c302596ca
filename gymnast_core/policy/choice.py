"""The policies that a station can act by, each known by its name: its own, an adapter on it, or any other one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gymnast_core.config import find_model
from gymnast_core.contents import one_line
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import fingerprint
from gymnast_core.policy.load import REMOTE, check_policy, open_policy
from gymnast_core.policy.lora_files import TENSORS
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.protocols import Policy
from gymnast_core.station_file import StationFile

BASE = "base"
LONGEST_NAME = 500
MAX_ADAPTERS = 8
"""At most this many stay in memory; the oldest names leave first (their folders stay)."""
MAX_OTHERS = 2
"""Checkpoints and scripts beside the station's own policy that stay in memory when others than its user name them."""


def names_another(name: str) -> bool:
    """Whether this names a policy of its own: a server's address, a path with a slash, or a script (`.npz`). Any other
    name is the station's own policy ("base") or an adapter on it."""
    return name.startswith(REMOTE) or "/" in name or name.endswith(".npz")


class StationPolicies:
    """Opens the policies of a station by their names, and keeps them open.

    "base" is the policy of the station file. A name without a slash is an adapter on it. Anything else is what
    `open_policy` opens: a checkpoint folder, a script, a policy server's address.

    Names may come from anybody who can send a goal or a job. So the token of this process (GYMNAST_POLICY_TOKEN) goes
    to the server of the station file (`models.policy`), and to no other one. user_names: whether the user of this
    process names the policies himself; then the token goes to each of their servers, and policies on the Hub
    (`hf:OWNER/NAME`) are fetched. Others get those of the Hub that this machine's cache holds.
    """

    def __init__(self, station: StationFile, user_names: bool = False) -> None:
        self._station = station
        self._user_names = user_names
        self._store = adapters.AdapterStore(station.config.models.adapters)
        self._open: dict[str, Policy] = {}

    def check(self, name: str) -> None:
        """See that there is such a policy, at no cost: nothing is loaded, and no server is asked.

        Raises: ConfigError (no such folder), CheckpointError (no such adapter, or one that was rolled back).
        """
        _refuse_odd(name)
        if name == BASE:
            check_policy(self._station.config.models.policy, self._station.path)
        elif names_another(name):
            check_policy(name, self._station.path, self._user_names)
        else:
            self._check_adapter(name)

    def choose(self, name: str) -> Policy:
        """The policy of that name, ready to act; the one chosen before it may act no more.

        Raises: CheckpointError when there is no such adapter or folder, or the adapter may not act; ConfigError;
            DataError when no policy server answers.
        """
        _refuse_odd(name)
        own = self._station.config.models.policy
        if names_another(name):
            if name != own:
                return self._opened(name, name)
            name = BASE
        policy = self._opened(BASE, own)
        if not isinstance(policy, OpenVLAPolicy):
            if name != BASE:
                raise CheckpointError(f"policy '{name}': {own} takes no adapters; use 'base'")
            return policy
        if name == BASE:
            adapters.deactivate(policy)
            return policy
        self._check_adapter(name)  # also where it is attached: it may have been rolled back since
        present = adapters.attached(policy)
        if name not in present:
            for other in present[: max(0, len(present) - MAX_ADAPTERS + 1)]:
                adapters.detach(policy, other)
            self._store.load(policy, name)
        adapters.activate(policy, name)
        return policy

    def warm_up(self) -> None:
        """Import now what adapters need, where there are any, and not in the episode that first asks for one."""
        if isinstance(self._open.get(BASE), OpenVLAPolicy) and self._store.names():
            adapters.load_library()

    def weights(self, name: str) -> str:
        """What identifies the weights behind a name: a fingerprint, "FINGERPRINT of the base + FINGERPRINT" for an
        adapter; empty where this machine cannot tell (a server, files that lie elsewhere)."""
        try:
            if name.startswith(REMOTE):
                return ""
            if not names_another(name) and name != BASE:
                return f"{self.weights(BASE)} + {_hash_of(self._store.folder(name) / TENSORS)}"
            own = self._station.config.models.policy if name == BASE else name
            if own.startswith(REMOTE):
                return ""
            path = find_model(own, self._station.path, self._user_names)
            return fingerprint(path) if path.is_dir() else _hash_of(path)
        except (ConfigError, CheckpointError, OSError):
            return ""

    def close(self) -> None:
        """Close the connections to policy servers; the next action opens them again."""
        for policy in self._open.values():
            if callable(leave := getattr(policy, "close", None)):
                leave()

    def _opened(self, key: str, target: str) -> Policy:
        candidates = self._station.config.look_ahead.rollouts
        if candidates and key != BASE:
            raise ConfigError(
                f"{self._station.path}: look_ahead.rollouts: found {candidates}, but only the station's own policy and "
                f"its adapters look ahead; set it to 0 to try '{key}'"
            )
        if key in self._open:
            self._open[key] = self._open.pop(key)  # the latest is the last
        else:
            self._make_room()
            models = self._station.config.models
            trusted = self._user_names or key == BASE
            self._open[key] = open_policy(
                target,
                models.unnorm_key,
                models.device,
                beside=self._station.path,
                with_token=trusted,
                network=trusted,
            )
        return self._open[key]

    def _make_room(self) -> None:
        """Before another policy is opened: names that come from anybody must not fill the memory."""
        others = [key for key in self._open if key != BASE and not key.startswith(REMOTE)]
        if not self._user_names:
            for key in others[: max(0, len(others) - MAX_OTHERS + 1)]:
                del self._open[key]

    def _check_adapter(self, name: str) -> None:
        try:
            self._store.check_fit_to_act(name)
        except (CheckpointError, ConfigError) as error:
            if Path(name).exists() and name not in self._store.names():
                raise CheckpointError(f"{error}; for the folder of that name write './{one_line(name, 60)}'") from error
            raise


def _refuse_odd(name: str) -> None:
    """Raises: ConfigError for what no log could show on a line."""
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"policy: found {one_line(name, 60)!r}; needed a name that prints, of at most {LONGEST_NAME} characters"
        )


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

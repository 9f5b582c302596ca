"""The policies that a station can act by, each known by its name: its own, an adapter on it, or any other one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gymnast_core.config import find_model
from gymnast_core.contents import one_line
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import fingerprint
from gymnast_core.policy.load import check_policy, open_policy
from gymnast_core.policy.lora_files import TENSORS
from gymnast_core.policy.names import BASE, REMOTE, USUAL_CANDIDATES, names_another, read_name
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.server_tokens import lent_token, token_in
from gymnast_core.protocols import Policy
from gymnast_core.station_file import StationFile

LONGEST_NAME = 500
MAX_OTHERS = 2
"""Checkpoints and scripts beside the station's own policy that stay in memory when others than its user name them."""


class StationPolicies:
    """Opens the policies of a station by their names (`names.py`), and keeps them open.

    Names may come from anybody who can send a goal or a job. user_names: whether the user of this process names the
    policies himself. `_token` is the one rule of which server is sent which token.
    """

    def __init__(self, station: StationFile, user_names: bool = False) -> None:
        self._station = station
        self._user_names = user_names
        self._store = adapters.AdapterStore(station.config.models.adapters)
        self._open: dict[str, Policy] = {}
        self._sent: dict[str, str | None] = {}
        """The token that each open server was sent; see `_token`."""
        self._kept: adapters.KeptAdapters | None = None

    def check(self, name: str) -> None:
        """See that there is such a policy, at no cost: nothing is loaded, and no server is asked.

        Raises: ConfigError (no such folder, no such look-ahead), CheckpointError (no such adapter, or one that was
            rolled back).
        """
        _refuse_odd(name)
        acts, own = read_name(name).acts, self._station.config.models.policy
        if acts != BASE and not names_another(acts):
            self._check_adapter(acts)
            acts = BASE
        target = own if acts == BASE else acts
        check_policy(target, self._station.path)
        self._check_look_ahead(name, target)

    def candidates(self, name: str) -> int:
        """How many sampled candidates this policy imagines before each chunk; 0: it does not look ahead."""
        asked, usual = read_name(name), self._station.config.look_ahead.rollouts
        return asked.candidates or usual or USUAL_CANDIDATES if asked.looks_ahead else usual

    def choose(self, name: str) -> Policy:
        """The policy of that name, ready to act; of a look-ahead the one that proposes. The one chosen before it may
        act no more.

        Raises: CheckpointError when there is no such adapter or folder, or the adapter may not act; ConfigError;
            DataError when no policy server answers.
        """
        _refuse_odd(name)
        acts, own = read_name(name).acts, self._station.config.models.policy
        self._check_look_ahead(name, acts if names_another(acts) else own)
        if names_another(acts):
            if acts != own:
                return self._opened(acts, acts)
            acts = BASE
        policy = self._opened(BASE, own)
        if not isinstance(policy, OpenVLAPolicy):
            if acts != BASE:
                raise CheckpointError(f"policy '{acts}': {own} takes no adapters; use 'base'")
            return policy
        if acts == BASE:
            adapters.deactivate(policy)
            return policy
        self._check_adapter(acts)  # its words name a folder that was meant
        if self._kept is None:
            self._kept = adapters.KeptAdapters(policy, self._store)
        self._kept.bring(acts)
        adapters.activate(policy, acts)
        return policy

    def warm_up(self) -> None:
        """Import now what adapters need, where there are any, and not in the episode that first asks for one."""
        if isinstance(self._open.get(BASE), OpenVLAPolicy) and self._store.names():
            adapters.load_library()

    def weights(self, name: str) -> str:
        """What identifies the weights behind a name: a fingerprint, "FINGERPRINT of the base + FINGERPRINT" for an
        adapter; empty where this machine cannot tell (a server, files that lie elsewhere)."""
        try:
            name = read_name(name).acts
            if name.startswith(REMOTE):
                return ""
            if not names_another(name) and name != BASE:
                return f"{self.weights(BASE)} + {_hash_of(self._store.folder(name) / TENSORS)}"
            own = self._station.config.models.policy if name == BASE else name
            if own.startswith(REMOTE):
                return ""
            path = find_model(own, self._station.path)
            return fingerprint(path) if path.is_dir() else _hash_of(path)
        except (ConfigError, CheckpointError, OSError):
            return ""

    def close(self) -> None:
        """Close the connections to policy servers; the next action opens them again."""
        for policy in self._open.values():
            _close(policy)

    def _opened(self, key: str, target: str) -> Policy:
        token = self._token(target) if target.startswith(REMOTE) else None
        if key in self._open and self._sent.get(key) != token:  # whoever asks now gets nothing by another one's token
            _close(self._open.pop(key))
        if key in self._open:
            self._open[key] = self._open.pop(key)  # the latest is the last
        else:
            self._make_room()
            models = self._station.config.models
            self._open[key] = open_policy(
                target, models.unnorm_key, models.device, beside=self._station.path, token=token
            )
            self._sent[key] = token
        return self._open[key]

    def _token(self, address: str) -> str | None:
        """What a policy server is sent: the token that is for its address, and no other one. "": none; None: that of
        GYMNAST_POLICY_TOKEN, if any.

        First comes what a running command lends for this address (a job's token, `--policy-token-env`), then what
        `models.policy_token_env` of the station file says of it. Without either, GYMNAST_POLICY_TOKEN goes to the
        server of the station file (`models.policy`), and to others only where the user of this process names them.

        Raises: ConfigError where the station file names a variable that is not set.
        """
        if lent := lent_token(address):
            return lent
        models = self._station.config.models
        for known, variable in models.policy_token_env.items():
            if known.rstrip("/") == address.rstrip("/"):
                return token_in(variable, f"{self._station.path}: models.policy_token_env")
        return None if self._user_names or address == models.policy else ""

    def _check_look_ahead(self, name: str, target: str) -> None:
        """Raises: ConfigError for a policy that looks ahead and cannot sample."""
        if (target.startswith(REMOTE) or target.endswith(".npz")) and (count := self.candidates(name)):
            raise ConfigError(
                f"policy '{one_line(name, 100)}': looks ahead with {count} candidates (look_ahead.rollouts of "
                f"{self._station.path}, or its name), but {one_line(target, 100)} cannot sample them; needed 0"
            )

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


def _close(policy: Policy) -> None:
    if callable(leave := getattr(policy, "close", None)):
        leave()


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

"""One policy that acts by whichever stored adapter a client names: what is loaded once is shared by all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.protocols import Policy
from gymnast_core.serve.refusal import Refusal

MOST = 8
"""At most this many stay in memory; the one that was chosen longest ago leaves first."""


class AdaptedPolicy:
    """A policy with one of its adapters, or with none ("")."""

    def __init__(self, policy: OpenVLAPolicy, name: str) -> None:
        self._policy, self._names = policy, (name,) if name else ()

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk."""
        return self._policy.chunk_length

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """The policy's chunks (N, K, 7), by this adapter."""
        if adapters.active(self._policy) != self._names:
            adapters.activate(self._policy, *self._names)
        return self._policy.act(frames, instructions)


class AdapterChoice:
    """The adapters of a policy, by name. own: the one that acts where a client names none. Raises: ConfigError for a
    policy that takes none."""

    def __init__(self, policy: Policy, own: str, root: str) -> None:
        if not isinstance(policy, OpenVLAPolicy):
            raise ConfigError("--practise: found a policy that takes no adapters; serve a checkpoint folder")
        self._policy, self._own, self._store = policy, own, adapters.AdapterStore(root)
        self._known = {own: AdaptedPolicy(policy, own)}

    def choose(self, name: str) -> AdaptedPolicy:
        """The policy by the adapter `name`, "" for the server's own; in the policy's thread. Raises: Refusal 400."""
        name = name or self._own
        if name != self._own:
            try:
                self._store.check_fit_to_act(name)  # also a known one: it may have been rolled back since
                if name not in adapters.attached(self._policy):
                    self._make_room()
                    self._store.load(self._policy, name)
            except (CheckpointError, ConfigError) as error:
                raise Refusal(400, f"adapter: {error}") from error
        chosen = self._known.pop(name, None) or AdaptedPolicy(self._policy, name)
        self._known[name] = chosen  # the latest stands last
        return chosen

    def _make_room(self) -> None:
        for name in [name for name in self._known if name != self._own][: max(0, len(self._known) - MOST)]:
            adapters.detach(self._policy, name)
            del self._known[name]

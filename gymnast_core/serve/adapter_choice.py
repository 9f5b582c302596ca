"""One policy that acts by whichever stored adapter a client names: what is loaded once is shared by all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.protocols import Policy
from gymnast_core.serve.refusal import Refusal


class AdaptedPolicy:
    """A policy with one of its adapters, or with none ("")."""

    def __init__(self, policy: OpenVLAPolicy, kept: adapters.KeptAdapters, name: str) -> None:
        self._policy, self._kept, self._names = policy, kept, (name,) if name else ()

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk."""
        return self._policy.chunk_length

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """The policy's chunks (N, K, 7), by this adapter."""
        for name in self._names:
            if not self._kept.has(name):  # others were chosen between this request and its forward
                self._kept.bring(name)
        if adapters.active(self._policy) != self._names:
            adapters.activate(self._policy, *self._names)
        return self._policy.act(frames, instructions)


class AdapterChoice:
    """The adapters of a policy, by name. own: the one that acts where a client names none. Raises: ConfigError for a
    policy that takes none."""

    def __init__(self, policy: Policy, own: str, root: str) -> None:
        if not isinstance(policy, OpenVLAPolicy):
            raise ConfigError("--practise: found a policy that takes no adapters; serve a checkpoint folder")
        self._policy, self._own = policy, own
        self._kept = adapters.KeptAdapters(policy, adapters.AdapterStore(root), own)
        self._known = {own: AdaptedPolicy(policy, self._kept, own)}
        """One object a name: rows of one object share a forward."""

    def choose(self, name: str) -> AdaptedPolicy:
        """The policy by the adapter `name`, "" for the server's own; in the policy's thread. Raises: Refusal 400."""
        name = name or self._own
        try:
            self._kept.bring(name)
        except (CheckpointError, ConfigError) as error:
            raise Refusal(400, f"adapter: {error}") from error
        chosen = self._known.get(name) or AdaptedPolicy(self._policy, self._kept, name)
        self._known = {other: one for other, one in self._known.items() if other == self._own or self._kept.has(other)}
        self._known[name] = chosen
        return chosen

"""The policy server behind `gymnast serve`: one policy, both wires on one port."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from gymnast_core.protocols import Policy
from gymnast_core.serve.access import choose_token
from gymnast_core.serve.actor import Actor
from gymnast_core.serve.batching import PolicyThread
from gymnast_core.serve.http_wire import HttpWire
from gymnast_core.serve.listener import Listener
from gymnast_core.serve.practice import Practices
from gymnast_core.serve.serve_config import ServeConfig
from gymnast_core.serve.sessions import Sessions
from gymnast_core.serve.websocket_wire import WebSocketWire


class PolicyServer:
    """Serves one policy until SIGINT or SIGTERM.

    open_policy: opens the policy; more than once where the policy remembers what it saw. about: what clients are told
    of the policy. practices: where clients may practise.

    Raises: ConfigError (a network without a token, certificates), DataError (the port), what `open_policy` raises.
    """

    def __init__(
        self,
        config: ServeConfig,
        open_policy: Callable[[], Policy],
        about: dict[str, Any],
        practices: Practices | None = None,
    ) -> None:
        token = choose_token(config)
        with contextlib.ExitStack() as undo:  # the port is taken first: it is tried before a model is loaded
            self._listener = undo.enter_context(Listener(config, ("http", "ws")))
            gate = self._listener.gate
            self._sessions = Sessions(
                config.max_clients, config.idle_seconds, config.rate, lambda peer: self._listener.is_open(peer)
            )
            thread = PolicyThread(config.max_batch, config.gather_ms / 1e3)
            actor = Actor(open_policy, thread, config.steps_of_chunk, practices)
            self._practising = actor.practising
            app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
            HttpWire(actor, self._sessions, gate, config, token).add_to(app)
            WebSocketWire(actor, self._sessions, gate, config, token, about).add_to(app)
            self._listener.prepare(app)
            undo.pop_all()
        self.port, self.addresses = self._listener.port, self._listener.addresses

    def run(self) -> int:
        """Serve; returns 0 when every accepted request was answered, 1 when time ran out."""
        try:
            return self._listener.run(self._tend)
        finally:
            if self._practising is not None:
                self._practising.close()

    def _tend(self) -> None:
        self._sessions.forget_idle()
        if self._practising is not None:
            self._practising.tend()

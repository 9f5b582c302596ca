"""`gymnast queue serve`: users submit jobs over HTTP. A station need serve no policy for it."""

from __future__ import annotations

import contextlib

from fastapi import FastAPI

from gymnast_core.errors import ConfigError
from gymnast_core.progress import say
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.job_users import Users
from gymnast_core.serve.listener import Listener
from gymnast_core.serve.queue_config import ServeQueueConfig
from gymnast_core.serve.queue_desk import QueueDesk
from gymnast_core.serve.queue_wire import QueueWire
from gymnast_core.serve.sessions import Sessions

IDLE_S = 600.0


def serve_queue(config: ServeQueueConfig) -> int:
    """Serve until SIGINT or SIGTERM; 0 when every accepted request was answered, 1 when time ran out.

    Raises: ConfigError (the station, a queue without users, certificates), DataError (the queue, the port).
    """
    store = JobStore(config.queue)
    desk, users = QueueDesk(store, config.config), Users(store)
    name = desk.station.config.name
    if not users.list():
        raise ConfigError(f"{store.folder}: has no users yet; `gymnast queue user NAME` adds one and prints a token")
    with Listener(config) as listener:
        sessions = Sessions(config.max_clients, IDLE_S, config.rate, listener.is_open)
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        QueueWire(desk, users, sessions, listener.gate, config).add_to(app)
        listener.prepare(app)
        say(f"the queue of station '{name}' in {store.folder}")
        if config.host != "127.0.0.1" and not config.tls_cert:
            say("without --tls-cert whoever is on the way reads tokens; --tls-cert encrypts them", "yellow")
        with contextlib.suppress(KeyboardInterrupt):
            return listener.run(sessions.forget_idle)
    return 130

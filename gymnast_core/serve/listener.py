"""A port with an app on it: connections that ask nothing are closed, and the end owes nobody an answer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import user_path
from gymnast_core.progress import say
from gymnast_core.serve.gate import Gate
from gymnast_core.serve.joined_writes import JoinedProtocol
from gymnast_core.serve.listen_config import ListenConfig
from gymnast_core.serve.sessions import Peer

TEND_S = 0.25
HEAD_S = 10.0
"""A connection that has not sent the head of a request after this time is closed."""
SPARE = 64
"""Connections beyond one for each client. Of further ones those are closed that have asked nothing for longest."""
GRACE_S = 0.5
"""Time in which any new connection may send its request."""
MESSAGE_ROOM = 4
"""A WebSocket message up to this many times --max-body is read, and answered by why it is refused."""


class Listener:
    """Takes a port at once, and serves an app on it until SIGINT or SIGTERM.

    schemes: of the addresses, without the s of TLS.

    Raises: DataError where the port is taken.
    """

    def __init__(self, config: ListenConfig, schemes: tuple[str, ...] = ("http",)) -> None:
        self._config = config
        self._socket = _bind(config.host, config.port)
        self._seen: dict[int, float] = {}
        """When a connection that has asked nothing yet was first seen, by its protocol's id."""
        self.gate = Gate(config.max_clients)
        self.port = int(self._socket.getsockname()[1])
        secure = "s" if config.tls_cert else ""
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.addresses = tuple(f"{scheme}{secure}://{host}:{self.port}" for scheme in schemes)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def prepare(self, app: FastAPI) -> None:
        """Name the app. Raises: ConfigError for certificates that cannot be used."""
        self._server = _Server(_settings(app, self._config))

    def is_open(self, peer: Peer) -> bool:
        """Whether a connection from there is still open."""
        return any(getattr(link, "client", None) == peer for link in self._server.server_state.connections)

    def run(self, tend: Callable[[], None] = lambda: None) -> int:
        """Serve; returns 0 when every accepted request was answered, 1 when time ran out. tend: called four times a
        second in the event loop."""
        return asyncio.run(self._serve(tend))

    async def _serve(self, tend: Callable[[], None]) -> int:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, stopping)
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        tending = asyncio.create_task(self._tend(tend))
        stopped = asyncio.create_task(stopping.wait())
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        say(f"serving on {' and '.join(self.addresses)} (Ctrl-C ends it)", "bold")
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        unanswered = await self._drain()
        tending.cancel()
        self._server.should_exit = True
        self._server.force_exit = unanswered > 0
        await serving
        if unanswered:
            say(f"{unanswered} requests were not answered within {self._config.drain_seconds:g} s", "yellow")
        return int(unanswered > 0)

    def _stop(self, stopping: asyncio.Event) -> None:
        if stopping.is_set():  # a second signal: now
            raise KeyboardInterrupt
        say("ending: answering what was accepted; once more to end now")
        stopping.set()

    async def _drain(self) -> int:
        """Accept nothing more and wait for the answers that are due; returns how many of them are not there in time."""
        self.gate.closed = True
        for listening in getattr(self._server, "servers", ()):
            listening.close()
        end = time.monotonic() + self._config.drain_seconds
        while self.gate.under_way and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return self.gate.under_way

    async def _tend(self, tend: Callable[[], None]) -> None:
        """Close connections that ask nothing, and do what the app wants done now and then."""
        while True:
            await asyncio.sleep(TEND_S)
            self._close_silent()
            tend()

    def _close_silent(self) -> None:
        """A connection without a request costs a file descriptor; uvicorn itself would keep it for ever."""
        now, links = time.monotonic(), list(self._server.server_state.connections)
        silent = [link for link in links if _asks_nothing(link)]
        self._seen = {id(link): self._seen.get(id(link), now) for link in silent}
        too_many = len(links) - (self._config.max_clients + SPARE)
        for place, link in enumerate(sorted(silent, key=lambda link: self._seen[id(link)])):
            if now - self._seen[id(link)] > (GRACE_S if place < too_many else HEAD_S):
                transport = getattr(link, "transport", None)
                if transport is not None:
                    transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server, whose end `Listener` decides."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def install_signal_handlers(self) -> None:
        """uvicorn before 0.29."""


def _asks_nothing(link: object) -> bool:
    """Whether a connection is between requests without a limit of time: before the first one, or in the midst of a
    request's head."""
    cycle = getattr(link, "cycle", link)  # a WebSocket has none
    between = bool(getattr(cycle, "response_complete", False))
    return cycle is None or (between and getattr(link, "timeout_keep_alive_task", link) is None)


def _bind(host: str, port: int) -> socket.socket:
    """A port that is taken, not listened on yet. Raises: DataError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol unnamed, asyncio does not switch Nagle's algorithm off, and each answer waits 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise DataError(f"{host}:{port}: {error.strerror or error}; choose another --host or --port") from error
    return bound


def _settings(app: FastAPI, config: ListenConfig) -> uvicorn.Config:
    """Raises: ConfigError for certificates that cannot be used."""
    if config.tls_key and not config.tls_cert:
        raise ConfigError("--tls-key: found a key without a certificate; needed --tls-cert as well")
    certificate, key = (str(user_path(name)) if name else None for name in (config.tls_cert, config.tls_key))
    settings = uvicorn.Config(
        app,
        http=JoinedProtocol,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_ROOM * int(config.max_body * 1e6),
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=2,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=120,
        backlog=1024,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        settings.load()
    except (OSError, ssl.SSLError) as error:
        told = f"{config.tls_cert}, {config.tls_key or 'with its key'}"
        raise ConfigError(
            f"--tls-cert: {told}: {getattr(error, 'strerror', None) or error}; needed PEM files"
        ) from error
    return settings

"""The console's port: the page on it, until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI

from gymnast_core.addresses import is_this_machine
from gymnast_core.files import user_path
from gymnast_core.progress import say
from gymnast_core.serve.console.app import Console
from gymnast_core.serve.console.snapshot import Robot
from gymnast_core.serve.listen_config import ListenConfig
from gymnast_core.serve.listener import Listener
from gymnast_core.station_file import StationFile

BACKLOG_S = 1.0
"""At the end, the time for answers that are due: nobody waits longer for a page."""


def listen_config(host: str, port: int, tls_cert: str = "", tls_key: str = "") -> ListenConfig:
    """The console's port and its limits."""
    return ListenConfig(host, port, tls_cert, tls_key, max_body=0.01, max_clients=64, drain_seconds=BACKLOG_S)


def runs_of(opened: StationFile) -> Path:
    """The folder that a station's practices, trials and queue lie in. Raises: ConfigError."""
    return user_path(opened.config.recorder.folder, "recorder.folder").resolve().parent


def serve_console(robot: Robot, opened: StationFile, listener: Listener, token: str, kept: str) -> int:
    """Serve until a signal comes; returns the exit code.

    kept: where people find the token. The address with the token is printed: its part behind # is sent to nobody.
    """
    console = Console(robot, opened, runs_of(opened), token, listener.gate)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    console.add_to(app)
    listener.prepare(app)
    address = listener.addresses[0].replace("//0.0.0.0:", "//localhost:")
    print(f"console of station '{opened.config.name}': {address}/#token={token}", flush=True)
    print(f"whoever reaches {address} may look; its buttons need the token ({kept})", flush=True)
    if not is_this_machine(urlsplit(listener.addresses[0]).hostname or "") and address.startswith("http:"):
        say("whoever is on the way between browser and console reads the token; --tls-cert encrypts it", "yellow")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return listener.run()
        return 130
    finally:
        console.close()

"""The console: a page in a browser beside a running graph, started by it or by `gymnast console`.

It is no managed node: nothing waits for it, and its end ends nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence

from gymnast_core.errors import ConfigError, DataError, GymnastError
from gymnast_core.serve.console.options import ConsoleOptions
from gymnast_core.station_file import StationFile, open_station
from gymnast_nodes.client import Station
from gymnast_nodes.client_verb import run_client
from gymnast_nodes.parameters import station_parameter

NEEDED = ("fastapi", "uvicorn", "websockets")
REFUSED = 2


def missing() -> str:
    """What the extra `serve` would bring, in words; empty where all is there."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"needs the Python package '{absent[0]}' (pip install 'gymnast[serve]')" if absent else ""


def serve(station: Station, opened: StationFile, options: ConsoleOptions, other_port: bool) -> int:
    """Serve the console of a graph until a signal comes.

    other_port: take any free one where the port is taken. Raises: ConfigError (token), DataError (port).
    """
    from gymnast_core.serve.console.server import listen_config, serve_console
    from gymnast_core.serve.console.tokens import console_token, token_file
    from gymnast_core.serve.listener import Listener
    from gymnast_nodes.console_work import ConsoleWork

    own = opened.config.console
    token = console_token(own.token_env)
    config = listen_config(
        options.host or own.host,
        own.port if options.port is None else options.port,
        options.tls_cert,
        options.tls_key,
    )
    try:
        listener = Listener(config)
    except DataError as error:
        if not other_port:
            raise
        print(f"console: {error}; another port is taken for now", file=sys.stderr, flush=True)
        listener = Listener(listen_config(config.host, 0))
    work = ConsoleWork(station, opened)
    try:
        with listener:
            return serve_console(work, opened, listener, token, f"${own.token_env}, else {token_file()}")
    finally:
        work.close()


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `console` of a graph."""
    if problem := missing():
        print(f"no console: it {problem}; the graph goes on without it", file=sys.stderr, flush=True)
        return 0
    try:
        with Station() as station:
            return serve(station, StationFile(*station_parameter(station.node)), ConsoleOptions(), other_port=True)
    except GymnastError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return REFUSED
    except KeyboardInterrupt:
        return 130


def run(options: ConsoleOptions) -> int:
    """`gymnast console`. Raises: GymnastError."""
    if problem := missing():
        raise ConfigError(f"`gymnast console` {problem}")
    opened = open_station(options.config)
    with contextlib.ExitStack() as stack:
        station = stack.enter_context(Station(namespace=options.namespace))
        return serve(station, opened, options, other_port=False)


if __name__ == "__main__":
    sys.exit(run_client(ConsoleOptions, run, "interrupted"))

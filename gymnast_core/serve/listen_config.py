"""Options of every verb that listens on a port: where, how encrypted, and how much it takes from a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import NotNegative, PathText


@dataclass(frozen=True)
class ListenConfig:
    """A port and its limits."""

    host: str = "127.0.0.1"
    """Address to listen on; by default this machine alone. 0.0.0.0: every network."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0: any free one."""
    tls_cert: PathText = ""
    """PEM file with the certificate: the addresses become https:// and wss://."""
    tls_key: PathText = ""
    """PEM file with the certificate's key; empty: it is in the same file."""
    max_body: Annotated[float, Field(gt=0, le=1024)] = 8.0
    """Megabytes of one request at most; a picture of 256x256 takes 0.3."""
    max_clients: Annotated[int, Field(ge=1, le=4096)] = 64
    """Clients at once; further ones are answered with 503."""
    rate: NotNegative = 0.0
    """Requests per second and client at most; further ones are answered with 429. 0: no limit."""
    receive_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """A request must have arrived whole after this time; a slower one is answered with 408."""
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """At the end, time for the answers that are still due."""

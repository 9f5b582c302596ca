"""Options of `gymnast console`, and the verb: it goes on as a client of the graph."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import PathText
from gymnast_core.ros_client import become_ros_client


@dataclass(frozen=True)
class ConsoleOptions:
    """Serve the page on which people watch and operate a running station. `gymnast up` starts one of its own, unless
    `console.enabled` of the station file is false; this one is for another port, or another machine of the graph's
    network. It goes on until Ctrl-C."""

    config: tyro.conf.Positional[str] = "simulated_drawer"
    """Station file of the graph: a path, or the name of a shipped one (robot_configs/*.yaml)."""
    namespace: str = ""
    """Namespace of gymnast's own nodes."""
    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{0,253}$")] = ""
    """Address to listen on; empty: `console.host` of the station file, which is this machine alone. 0.0.0.0: every
    network. Whoever reaches the page may look; its buttons need the token."""
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """0: any free one; none: `console.port` of the station file."""
    tls_cert: PathText = ""
    """PEM file with the certificate: the address becomes https://."""
    tls_key: PathText = ""
    """PEM file with the certificate's key; empty: it is in the same file."""


def console(config: ConsoleOptions) -> int:
    """Serve the console. Raises: ConfigError without ROS 2."""
    become_ros_client("console_node", dataclasses.asdict(config))

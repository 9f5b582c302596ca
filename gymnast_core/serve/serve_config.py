"""Options of `gymnast serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.config import PathText
from gymnast_core.serve.listen_config import ListenConfig


@dataclass(frozen=True)
class ServeConfig(ListenConfig):
    """Let other programs ask a policy for actions, over AutoEval's HTTP interface and openpi's WebSocket interface on
    one port. Ctrl-C or SIGTERM answers what was accepted and ends the server."""

    policy: PathText = ""
    """A policy checkpoint's folder, recorded actions (.npz), or another policy server's address (http://host:port,
    ws://host:port). Empty: the station's policy."""
    config: str = "simulated_drawer"
    """Station file, a path or the name of a shipped one: its policy, the statistics for actions, and the device."""
    adapter: str = ""
    """Name of a stored adapter that is active on the policy."""
    adapters: PathText = "runs/adapters"
    """Folder of the stored adapters."""
    device: str = ""
    """cpu, cuda, cuda:1, ...; empty: as the station file says."""
    token: str = ""
    """What clients must send, as `Authorization: Bearer TOKEN` (or `Api-Key TOKEN`, as openpi's client does). Empty:
    the environment variable GYMNAST_SERVE_TOKEN, which other users of this machine do not see, or none."""
    insecure: bool = False
    """Listen on a network without a token: whoever reaches the port may use the policy. Otherwise any --host but this
    machine's own needs a token."""
    steps_of_chunk: Annotated[int, Field(ge=0, le=64)] = 0
    """Actions of each chunk that a client gets one by one before the policy looks again; 0: all of them. A client that
    asks for whole chunks decides by itself."""
    max_batch: Annotated[int, Field(ge=1, le=256)] = 32
    """Requests that are answered by one forward pass at most."""
    gather_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Milliseconds that a forward pass waits at most for the clients that took part in the last ones. A single client
    never waits."""
    idle_seconds: Annotated[float, Field(gt=0, le=86400)] = 600.0
    """A client that asked nothing for this long is forgotten."""
    practise: bool = False
    """Let clients ask for test-time practice, and act by the adapters that it makes. It runs `gymnast adapt` in a
    process of its own, one at a time, by the station's world model and judge."""
    practice_grace: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds in which a practice that was cancelled, or took too long, must end by itself; then it is killed."""
    practice_runs: PathText = "runs/served_practice"
    """Folder of the practices' run folders."""

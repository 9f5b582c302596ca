"""A process that speaks and hears nothing: it is ended, so that whoever started it starts it again.

That happens to a respawned node when the middleware's shared memory still belongs to the one before it
(`gymnast_nodes.dead_ports`), and it does not pass by itself.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

_NAMED = re.compile(r"(.+), process (\d+), \d+")


def end_process(name: str, process: str) -> bool:
    """Kill the process that a heartbeat of the node `name` gives as its own (`lifecycle.PROCESS`).

    Returns False, and kills nothing, where that is no process of this node on this machine: anybody may send a
    heartbeat.
    """
    named = _NAMED.fullmatch(process)
    if named is None or named[1] != socket.gethostname():
        return False
    pid = int(named[2])
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if f"__node:={name}".encode() not in words:
            return False
        os.kill(pid, signal.SIGKILL)  # a clean end would not be followed by a new start
    except OSError:
        return False
    return True

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


def end_process(process: str) -> bool:
    """Kill the process that a heartbeat names (`lifecycle.PROCESS`); whether it was one of ours on this machine."""
    named = _NAMED.fullmatch(process)
    if named is None or named[1] != socket.gethostname():
        return False
    pid = int(named[2])
    try:
        if b"gymnast_nodes" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        os.kill(pid, signal.SIGKILL)  # a clean end would not be followed by a new start
    except OSError:
        return False
    return True

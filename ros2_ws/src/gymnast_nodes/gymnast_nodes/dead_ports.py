"""A process that joins the graph stays away from the shared-memory ports of processes that were killed.

Fast DDS receives over shared memory at a port whose number a new process takes over from a dead one. The new process
makes the port anew; whoever wrote to the dead one goes on writing into the old memory until it notices. It notices by
the dead reader's frozen counter, and there is none where the reader was killed between waiting and reading: then a
respawned node hears nothing of that process, ever, and answers to nothing (Fast DDS pull requests 4728 and 4737
describe it). A port that somebody still writes to, and nobody reads, is therefore held while a participant is made;
Fast DDS then takes the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_MAPPED = re.compile(rb"/(fast(?:rtps|dds)_port\d+)( \(deleted\))?$", re.MULTILINE)


def mapped_ports() -> dict[str, bool]:
    """Ports (such as "fastrtps_port7411") that a process of this user has open; whether one of them is deleted."""
    ports: dict[str, bool] = {}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it ended, or is somebody else's
            for name, deleted in _MAPPED.findall(maps.read_bytes()):
                ports[name.decode()] = ports.get(name.decode(), False) or bool(deleted)
    return ports


def keep_standard_output() -> None:
    """Let standard output hold what Python prints, and nothing else, in a command that others read.

    Fast DDS says there which ports it passes over; that goes to standard error from now on.
    """
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


@contextlib.contextmanager
def avoided_dead_ports(folder: Path = SHARED_MEMORY) -> Iterator[list[str]]:
    """Hold the ports that are written to and that nobody reads; yields their names.

    The reader of a port holds a lock on NAME_el in `folder`; a lock that can be had is a dead reader's.
    """
    held: dict[str, int] = {}
    created: list[Path] = []
    try:
        for name, deleted in sorted(mapped_ports().items()):
            lock = folder / f"{name}_el"
            new = not lock.exists()
            # A multicast port has many readers. One without a lock, and not deleted, is just being made by its reader.
            if (folder / f"{name}_sl").exists() or (new and not deleted):
                continue
            with contextlib.suppress(OSError):  # a lock that somebody has, or may not be had
                file = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(file)
                    continue
                held[name] = file
                if new:
                    created.append(lock)
        yield list(held)
    finally:
        for lock in created:
            with contextlib.suppress(OSError):
                lock.unlink()
        for file in held.values():
            os.close(file)

"""Locks between processes, on file systems that have them: a share without locks costs the check, not the work."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

GROWTH_S = 0.5
"""A recorder writes out what it has several times within this."""


def try_lock(number: int, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, or its process ends.

    number: its descriptor, open for writing unless `shared` (a share may ask for that).
    Returns False where another process has it, None where the file system has no locks, so that nobody can know.
    """
    try:
        fcntl.flock(number, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def grows(path: str | os.PathLike[str]) -> bool:
    """Whether a file is longer half a second later: what can be known of its writer without locks."""
    size = Path(path).stat().st_size
    time.sleep(GROWTH_S)
    return Path(path).stat().st_size != size

"""Locks between processes, on file systems that have them: a share without locks costs the check, not the work."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from gymnast_core.errors import ConfigError

LOCK = ".lock"
"""In a folder: held by the process that works there, and let go when it ends, however it ends."""
GROWTH_S = 0.5
"""A recorder writes out what it has several times within this."""
WAIT_S = 0.2
_locks: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()


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


class FolderLock:
    """A folder for this process alone, as long as the object lives; `lock_folder` makes them."""

    def __init__(self, path: Path) -> None:
        number = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)  # a link would be emptied
        weakref.finalize(self, os.close, number)
        taken = try_lock(number)
        if taken is False:
            holder = os.read(number, 20).decode(errors="replace").strip() or "(unknown)"
            raise ConfigError(f"{path}: process {holder} works in this folder; wait for it, or choose another one")
        if taken is None:
            return
        os.truncate(number, 0)
        os.write(number, f"{os.getpid()}\n".encode())


def lock_folder(path: Path) -> FolderLock:
    """Keep other processes out of the folder as long as the result is kept; this one may ask for it many times.

    Raises: ConfigError naming the process that has it; OSError where nothing can be written.
    """
    path = path.resolve()
    lock = _locks.get(path)
    if lock is None:
        lock = _locks[path] = FolderLock(path)
    return lock


def wait_for_folder(path: Path, seconds: float, tick: Callable[[], None] = lambda: None) -> FolderLock:
    """The same, waiting up to `seconds` for another process to end. tick: called several times a second meanwhile.

    Raises: ConfigError naming the process that stays.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return lock_folder(path)
        except ConfigError:
            if time.monotonic() > deadline:
                raise
        tick()
        time.sleep(WAIT_S)

"""A limit of time for a whole exchange over a socket: a socket's own limit begins anew with every byte."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def cut_late(
    timeout_s: float, link: Callable[[], socket.socket | None], broken: tuple[type[Exception], ...]
) -> Iterator[float]:
    """Cuts the socket when the block takes longer than `timeout_s` seconds.

    link: the socket in use, where there is one. broken: what the block raises where its socket is cut.

    Yields the end, on the monotonic clock. Raises: TimeoutError.
    """
    end, late = time.monotonic() + timeout_s, threading.Event()

    def cut() -> None:
        late.set()
        if (found := link()) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)  # TLS is not told: another thread is in the midst

    timer = threading.Timer(timeout_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield end
    except broken as error:
        if late.is_set():
            raise TimeoutError("timed out") from error
        raise
    finally:
        timer.cancel()
    if late.is_set():  # a head that is cut off reads like a whole one
        raise TimeoutError("timed out")

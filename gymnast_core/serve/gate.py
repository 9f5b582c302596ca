"""What is under way: at the end the server answers what it accepted, and accepts nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gymnast_core.serve.refusal import Refusal

ENDING = "the server is ending; ask another one, or later"


class Gate:
    """Counts requests under way and open WebSockets. closed: nothing more is accepted."""

    def __init__(self, max_sockets: int) -> None:
        self._max_sockets = max_sockets
        self.under_way = 0
        self.sockets = 0
        self.closed = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, until its answer has been sent. Raises: Refusal 503 while the server is ending."""
        self.check()
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    @contextmanager
    def socket(self) -> Iterator[None]:
        """One open WebSocket. Raises: Refusal 503 while the server is ending, and for one too many."""
        self.check()
        if self.sockets >= self._max_sockets:
            raise Refusal(503, f"{self._max_sockets} clients are served already; try later", {"Retry-After": "10"})
        self.sockets += 1
        try:
            yield
        finally:
            self.sockets -= 1

    def check(self) -> None:
        """Raises: Refusal 503 while the server is ending."""
        if self.closed:
            raise Refusal(503, ENDING, {"Retry-After": "10", "Connection": "close"})

"""One WebSocket, for a caller that waits for each answer.

An event loop in a thread of its own has the connection. It answers the other side's pings between messages, and TLS
stays in one thread: where one thread reads from such a socket while another writes, OpenSSL now and then loses bytes
(3 of 1,000 connections on a busy machine).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect

CLOSE_S = 1.0
"""The other side's part in closing is waited for this long."""
Value = TypeVar("Value")


class WebSocketLink:
    """An open connection.

    address: "ws://host:port/path", "wss://" for TLS. place: host and port in it. end: of the time for opening, on the
    monotonic clock. max_size: of a message, bytes.

    Raises: OSError, TimeoutError, WebSocketException, EOFError, ValueError for a redirect, which is not followed. So
        does every method.
    """

    def __init__(
        self, address: str, place: tuple[str, int], headers: Mapping[str, str], end: float, max_size: int
    ) -> None:
        self.socket = socket.create_connection(place, timeout=max(0.01, end - time.monotonic()))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="websocket", daemon=True)
        self._thread.start()
        try:
            self._connection = self._do(self._open(address, headers, end, max_size), end)
        except BaseException:
            self._end()
            self.socket.close()
            raise

    def send(self, message: bytes, end: float) -> None:
        """Send a message before `end`."""
        self._do(self._connection.send(message), end)

    def receive(self, end: float) -> str | bytes:
        """The next message, whole, before `end`."""
        return self._do(self._connection.recv(), end)

    def close(self) -> None:
        """Take leave of the other side, and close."""
        with contextlib.suppress(TimeoutError):
            self._do(self._connection.close(), time.monotonic() + 2 * CLOSE_S)
        self._end()

    def drop(self) -> None:
        """Leave at once: the connection is of no use any more."""
        self._loop.call_soon_threadsafe(self._connection.transport.abort)
        self._end()

    async def _open(self, address: str, headers: Mapping[str, str], end: float, max_size: int) -> ClientConnection:
        return await connect(
            address,
            sock=self.socket,
            additional_headers=headers,
            open_timeout=max(0.01, end - time.monotonic()),
            close_timeout=CLOSE_S,
            ping_interval=None,  # a server that is busy with a forward need not answer pings: there is a deadline
            max_size=max_size,
            compression=None,
            proxy=None,
        )

    def _do(self, work: Coroutine[Any, Any, Value], end: float) -> Value:
        left = asyncio.wait_for(work, max(0.0, end - time.monotonic()))
        try:
            return asyncio.run_coroutine_threadsafe(left, self._loop).result()
        except (TimeoutError, asyncio.TimeoutError, FutureTimeout) as error:  # one and the same from Python 3.11 on
            raise TimeoutError("timed out") from error

    def _end(self) -> None:
        """End the thread, once what is under way in it has been cancelled."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        self._loop.call_soon_threadsafe(lambda: self._loop.call_later(0.0, self._loop.stop))
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    """Cancel every other task of this loop, and wait until they have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

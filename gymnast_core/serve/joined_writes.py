"""An answer leaves in one piece: head and body are one packet, which wakes its client once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class JoinedWrites:
    """A transport that sends together what is written in one step of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.plain, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send these bytes when this step of the event loop ends."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(bytes(data))

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self.plain.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self.plain.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


class JoinedProtocol(H11Protocol):
    """uvicorn's HTTP over such a transport. A WebSocket that begins on it, whose messages are whole, gets the plain
    one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))

    def handle_websocket_upgrade(self, event: Any) -> None:
        """A WebSocket begins; nothing is waiting to be sent, since no answer is under way."""
        if isinstance(self.transport, JoinedWrites):
            self.transport = self.transport.plain
        super().handle_websocket_upgrade(event)

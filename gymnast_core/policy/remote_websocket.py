"""A policy that runs elsewhere: behind the WebSocket interface that openpi's policy servers speak.

    the server    its metadata, once
    the client    {"observation/image": uint8 (H, W, 3), "prompt": text}, a message each
    the server    {"actions": (K, 7), "server_timing": {...}}; text: what went wrong

Messages are `wire_msgpack`'s. No `observation/state` is sent, because a policy here is asked about frames alone; a
server that cannot do without says so. `gymnast serve` names "reset" in its metadata: {"endpoint": "reset"} begins an
episode there. Any other server learns of an episode by a new connection. What lets a client practise is in
`remote_practice.py`.
"""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from gymnast_core.addresses import WEBSOCKET, check_address
from gymnast_core.contents import one_line
from gymnast_core.data.episode import ACTION_DIM, check_actions
from gymnast_core.errors import DataError
from gymnast_core.policy.answers import MAX_REPLY, Answer, describe, refusal
from gymnast_core.policy.config import MAX_CHUNK
from gymnast_core.policy.deadline import cut_late
from gymnast_core.policy.images import check_batch
from gymnast_core.policy.remote import authorisation
from gymnast_core.policy.remote_practice import Deed, PractisingClient
from gymnast_core.policy.wire_msgpack import pack, unpack

BROKEN = (OSError, EOFError, ValueError, WebSocketException)
"""What an exchange over a connection raises; ValueError for a redirect, which is not followed."""


class WebSocketPolicy(PractisingClient):
    """Asks a policy server for each row of a batch, over one connection that is kept open and opened again once lost.

    address: "ws://host:port", perhaps with a path; "wss://" for TLS. timeout_s: for each whole answer, with connecting
    where that is needed. token: sent along; "": none; None: that of GYMNAST_POLICY_TOKEN.

    Raises: ConfigError when the address is not one, DataError when no policy answers there.
    """

    def __init__(self, address: str, timeout_s: float = 30.0, token: str | None = None) -> None:
        parts = check_address(address, "policy", WEBSOCKET)
        self.address = address
        self._place = (parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80))
        self.metadata: dict[Any, Any] = {}
        """What the server said of itself when the connection was opened."""
        self._timeout_s = timeout_s
        self._headers = authorisation(token)
        self._session = uuid.uuid4().hex
        """Names this client where the server must know it again, also over another connection."""
        self._link: ClientConnection | None = None
        self._socket: socket.socket | None = None
        self._chunk_length = 0
        try:
            self._chunk_length = len(self._ask(np.zeros((256, 256, 3), np.uint8), "test connection"))
            self.restart()
        except DataError:
            self.close()
            raise

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk, as the server's first answer had."""
        return self._chunk_length

    def restart(self) -> None:
        """Tell the server that a new episode begins. Raises: DataError when it answers that it cannot."""
        if self.metadata.get("reset") is True:
            self._exchange({"endpoint": "reset"})
        else:
            self.close()

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Chunks (N, K, 7) float32. Raises: DataError for bad input, or when the server's answer is none."""
        return np.stack([self._ask(frame, text) for frame, text in zip(*check_batch(frames, instructions))])

    def _check_practises(self) -> None:
        if self.metadata.get("practise") is not True:
            raise self._no_practice("its metadata does not name practise")

    def _capture(self, frame: np.ndarray, instruction: str) -> None:
        self._ask(frame, instruction, capture=True)

    def _do(self, what: Deed, content: Mapping[str, Any]) -> dict[Any, Any]:
        return self._exchange({"endpoint": what, "session": self._session, **content})

    def _ask(self, frame: np.ndarray, instruction: str, capture: bool = False) -> np.ndarray:
        content = {"observation/image": frame, "prompt": instruction}
        content |= {"capture": True, "session": self._session} if capture else {}
        content |= {"adapter": self._adapter} if self._adapter else {}
        actions = read_chunk(self._exchange(content), self.address)
        wanted = self._chunk_length or len(actions)
        if len(actions) != wanted or not 1 <= wanted <= MAX_CHUNK:
            needed = self._chunk_length or f"1 to {MAX_CHUNK}"
            raise DataError(f"{self.address}: answered {len(actions)} actions, needed {needed}")
        return actions

    def _exchange(self, content: dict[str, Any]) -> dict[Any, Any]:
        """The answer to one message. A connection that was lost meanwhile is opened once more. Raises: DataError."""
        message = pack(content)
        for last in (False, True):
            fresh = self._link is None
            try:
                with cut_late(self._timeout_s, lambda: self._socket, BROKEN) as end:
                    link = self._link or self._open(end)
                    link.send(message)
                    reply = link.recv(timeout=max(0.0, end - time.monotonic()))
                return self._read(reply)
            except DataError:
                self._drop()
                raise
            except BROKEN as error:
                self._drop()
                if last or fresh or not isinstance(error, ConnectionClosed):
                    raise DataError(f"{self.address}: no policy server answers ({_words(error)})") from error
        raise AssertionError("unreachable")

    def _open(self, end: float) -> ClientConnection:
        """A new connection, its metadata read. Raises: OSError, WebSocketException, DataError."""
        self._socket = socket.create_connection(self._place, timeout=max(0.01, end - time.monotonic()))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = connect(
            self.address,
            sock=self._socket,
            additional_headers=self._headers,
            open_timeout=max(0.01, end - time.monotonic()),
            close_timeout=1.0,
            ping_interval=None,  # a server that is busy with a forward need not answer pings: there is a deadline
            max_size=MAX_REPLY,
            compression=None,
            proxy=None,
        )
        link = contextlib.ExitStack().enter_context(opening)  # `close` and `_drop` close it
        self._link, self._socket = link, link.socket
        self.metadata = self._read(link.recv(timeout=max(0.0, end - time.monotonic())))
        return link

    def _read(self, reply: str | bytes) -> dict[Any, Any]:
        """Raises: DataError, with the server's own words where it sent text: of a traceback the last line."""
        if isinstance(reply, bytes):
            return unpack(reply, self.address)
        lines = [line for line in reply.splitlines() if line.strip()]
        raise DataError(f"{self.address}: answered {one_line(lines[-1] if lines else 'empty text')!r}")

    def _drop(self) -> None:
        """Leave a connection that is of no use any more, without waiting for the other side."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(*BROKEN):
                socket.socket.shutdown(link.socket, socket.SHUT_RDWR)
            link.close()
        elif self._socket is not None:
            self._socket.close()


def read_chunk(content: Mapping[Any, Any], where: str) -> np.ndarray:
    """Actions (K, 7) float32 of an answer, K at least 1; a single action (7,) is a chunk of one.

    Raises: DataError naming `where`, with the server's own words where it gave any.
    """
    found = content.get("actions")
    if found is None:
        words = refusal({str(key): value for key, value in content.items() if isinstance(value, (str, bool, int))})
        told = repr(words) if words else f"fields {one_line(', '.join(map(str, content)), 80) or 'none'}"
        raise DataError(f"{where}: answered {told}, needed actions")
    try:
        actions = np.asarray(found)
    except ValueError as error:
        raise DataError(f"{where}: not an array of actions ({error})") from error
    if actions.dtype.kind not in "fiu":
        raise DataError(f"{where}: not an array of actions (found {actions.dtype})")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        chunk = check_actions(actions[None] if actions.shape == (ACTION_DIM,) else actions, where)
    if not len(chunk):
        raise DataError(f"{where}: answered no actions")
    return chunk


def _words(error: Exception) -> str:
    refused = error if isinstance(error, InvalidStatus) else error.__cause__
    if isinstance(refused, InvalidStatus):
        answer, head = refused.response, refused.response.headers
        body = bytes(answer.body or b"")[: MAX_REPLY + 1]
        told = Answer(answer.status_code, body, head.get("Content-Encoding", ""), head.get("Location", ""))
        return f"answered {describe(told)}"
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        return one_line(f"closed the connection: {error.rcvd.code} {error.rcvd.reason}".strip())
    return one_line(str(error)) or type(error).__name__

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

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from gymnast_core.addresses import WEBSOCKET, check_address
from gymnast_core.contents import one_line
from gymnast_core.data.episode import ACTION_DIM, check_actions
from gymnast_core.errors import DataError
from gymnast_core.policy.answers import MAX_REPLY, Answer, describe, refusal
from gymnast_core.policy.config import MAX_CHUNK
from gymnast_core.policy.images import check_batch
from gymnast_core.policy.remote import authorisation
from gymnast_core.policy.remote_practice import Deed, PractisingClient
from gymnast_core.policy.websocket_link import WebSocketLink
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
        self._link: WebSocketLink | None = None
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
        end = time.monotonic() + self._timeout_s
        for last in (False, True):
            fresh = self._link is None
            try:
                link = self._link or self._open(end)
                link.send(message, end)
                return self._read(link.receive(end))
            except DataError:
                self._drop()
                raise
            except BROKEN as error:
                self._drop()
                if last or fresh or not isinstance(error, ConnectionClosed):
                    raise DataError(f"{self.address}: no policy server answers ({_words(error)})") from error
        raise AssertionError("unreachable")

    def _open(self, end: float) -> WebSocketLink:
        """A new connection, its metadata read. Raises: OSError, WebSocketException, DataError."""
        self._link = WebSocketLink(self.address, self._place, self._headers, end, MAX_REPLY)
        self.metadata = self._read(self._link.receive(end))
        return self._link

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
            link.drop()


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

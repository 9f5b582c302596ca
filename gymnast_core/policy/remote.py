"""A policy that runs elsewhere: behind the policy server's HTTP interface that AutoEval and others speak.

    POST /act     {"image": uint8 (H, W, 3), "instruction": text}  ->  actions (7,) or (K, 7), Bridge convention
    POST /reset   before each episode; a server without it answers 404

A further field, "chunk": true, asks `gymnast serve` for the whole chunk; other servers ignore it. What lets a client
practise there is in `remote_practice.py`.

Arrays travel as json_numpy writes them: {"__numpy__": base64, "dtype": ..., "shape": ...}. `answers.py` says what else
a server may answer, and checks it like any other input: shape, type and finiteness.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from gymnast_core.addresses import check_address, check_header
from gymnast_core.contents import one_line
from gymnast_core.errors import DataError
from gymnast_core.policy.answers import MAX_REPLY, Answer, check_reset, describe, read_actions, read_object
from gymnast_core.policy.config import MAX_CHUNK
from gymnast_core.policy.deadline import cut_late
from gymnast_core.policy.images import check_batch
from gymnast_core.policy.practice_wire import NO_PRACTICE
from gymnast_core.policy.remote_practice import Deed, PractisingClient
from gymnast_core.policy.wire_arrays import encode_array
from gymnast_core.redaction import remember_secret

TOKEN_VARIABLE = "GYMNAST_POLICY_TOKEN"
"""Environment variable with the token that policy servers ask for."""
METHODS: dict[Deed, str] = {"practise": "POST", "progress": "GET", "cancel": "DELETE"}
NOTHING: Mapping[str, str] = MappingProxyType({})
BROKEN = (OSError, http.client.HTTPException)


def authorisation(token: str | None) -> dict[str, str]:
    """The header with a token, empty where there is none. None: the token of GYMNAST_POLICY_TOKEN, where that is set.

    Raises: ConfigError for an odd token.
    """
    given = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
    named = TOKEN_VARIABLE if token is None else "token"
    if not given:
        return {}
    checked = check_header(given, named)
    remember_secret(checked)
    return {"Authorization": f"Bearer {checked}"}


class RemotePolicy(PractisingClient):
    """Asks a policy server for each row of a batch, over one connection that is kept open.

    A policy that remembers what it saw learns of a new episode by `restart`. Give such a policy one row at a time: it
    would mix the frames of several.

    address: "http://host:port", with a path in front of /act where the server has one. timeout_s: for each answer.
    token: sent along; "": none; None: that of GYMNAST_POLICY_TOKEN.

    Raises: ConfigError when the address is not one, DataError when no policy answers there.
    """

    def __init__(self, address: str, timeout_s: float = 30.0, token: str | None = None) -> None:
        parts = check_address(address, "policy")
        port = parts.port
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.address = address.rstrip("/")
        self._timeout_s = timeout_s
        self._path = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json", **authorisation(token)}
        self._session = {"session": uuid.uuid4().hex}
        """Names this client where the server must know it again: its pictures and its practice are its own."""
        self._connection = kind(parts.hostname or "", port, timeout=timeout_s)
        self._chunk_length = 0
        try:
            self._chunk_length = self._ask(np.zeros((256, 256, 3), np.uint8), "test connection").shape[0]
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
        check_reset(self._send_whole("POST", "/reset", b""), f"{self.address}/reset")

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._connection.close()

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Chunks (N, K, 7) float32. Raises: DataError for bad input, or when the server's answer is none."""
        return np.stack([self._ask(frame, text) for frame, text in zip(*check_batch(frames, instructions))])

    def _check_practises(self) -> None:
        answer = self._send_whole("GET", "/practise", b"", self._session)
        if answer.status in (400, 404, 405, 501) and NO_PRACTICE.encode() not in answer.body:
            raise self._no_practice(f"answered {describe(answer)}")
        if answer.status not in (200, 404):
            raise DataError(f"{self.address}/practise: answered {describe(answer)}")

    def _capture(self, frame: np.ndarray, instruction: str) -> None:
        self._ask(frame, instruction, capture=True)

    def _do(self, what: Deed, content: Mapping[str, Any]) -> dict[str, Any]:
        method, body = METHODS[what], json.dumps(dict(content)).encode() if content else b""
        return read_object(self._send_whole(method, "/practise", body, self._session), f"{self.address}/practise")

    def _ask(self, frame: np.ndarray, instruction: str, capture: bool = False) -> np.ndarray:
        where = f"{self.address}/act"
        content = {"image": encode_array(frame), "instruction": instruction, "chunk": True}
        content |= {"capture": True} if capture else {}
        content |= {"adapter": self._adapter} if self._adapter else {}
        answer = self._send_whole("POST", "/act", json.dumps(content).encode(), self._session if capture else {})
        actions = read_actions(answer, where)
        wanted = self._chunk_length or len(actions)
        if len(actions) != wanted or not 1 <= wanted <= MAX_CHUNK:
            needed = self._chunk_length or f"1 to {MAX_CHUNK}"
            raise DataError(f"{where}: answered {len(actions)} actions, needed {needed}")
        return actions

    def _send_whole(self, method: str, path: str, body: bytes, more: Mapping[str, str] = NOTHING) -> Answer:
        """The answer to one request. more: headers. Raises: DataError."""
        for last in (False, True):
            try:
                with cut_late(self._timeout_s, lambda: self._connection.sock, BROKEN) as end:
                    whole = self._send(method, path, body, more)
                    answer = self._connection.getresponse()
                reply, whole = _read_any(answer, end, whole)
            except BROKEN as error:
                self._connection.close()
                stale = isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError))
                if last or not stale:  # a connection the server has closed meanwhile is opened once more
                    words = one_line(str(error)) or type(error).__name__
                    raise DataError(f"{self.address}{path}: no policy server answers ({words})") from error
                continue
            if len(reply) > MAX_REPLY or not whole:
                self._connection.close()
            head = answer.headers
            return Answer(answer.status, reply, head.get("Content-Encoding", ""), head.get("Location", ""))
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, body: bytes, more: Mapping[str, str]) -> bool:
        """Whether the server took the whole request: one that refuses it may have answered before its end.

        Raises: OSError when there is no connection.
        """
        try:
            self._connection.request(method, self._path + path, body, {**self._headers, **more})
        except (BrokenPipeError, ConnectionResetError):
            if self._connection.sock is None:
                raise
            return False
        return True


def _read_any(answer: http.client.HTTPResponse, end: float, whole: bool) -> tuple[bytes, bool]:
    """The body, and whether the connection can be used again: of an error the status counts, even with half a body.

    Raises: OSError, HTTPException.
    """
    try:
        return _read(answer, end), whole
    except BROKEN:
        if answer.status == 200:
            raise
        return b"", False


def _read(answer: http.client.HTTPResponse, end: float) -> bytes:
    """The body, one byte over the limit at most, until `end`.

    Raises: OSError, HTTPException.
    """
    reply = b""
    while len(reply) <= MAX_REPLY and (part := answer.read1(MAX_REPLY + 1 - len(reply))):
        reply += part
        if time.monotonic() > end:
            raise TimeoutError("timed out")
    if len(reply) <= MAX_REPLY and answer.length:
        raise http.client.IncompleteRead(reply, answer.length)
    if len(reply) <= MAX_REPLY:
        answer.read()  # nothing is left; frees the connection for the next request
    return reply

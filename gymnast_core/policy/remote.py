"""A policy that runs elsewhere: behind the policy server's HTTP interface that AutoEval and others speak.

    POST /act     {"image": uint8 (H, W, 3), "instruction": text}  ->  actions (7,) or (K, 7), Bridge convention
    POST /reset   before each episode; a server without it answers 404

A further field, "chunk": true, asks `gymnast serve` for the whole chunk; other servers ignore it.

Arrays travel as json_numpy writes them: {"__numpy__": base64, "dtype": ..., "shape": ...}. `answers.py` says what else
a server may answer, and checks it like any other input: shape, type and finiteness.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
from collections.abc import Iterator, Sequence

import numpy as np

from gymnast_core.addresses import check_address, check_header
from gymnast_core.contents import one_line
from gymnast_core.errors import DataError
from gymnast_core.policy.answers import MAX_REPLY, Answer, check_reset, read_actions
from gymnast_core.policy.config import MAX_CHUNK
from gymnast_core.policy.deadline import cut_late
from gymnast_core.policy.images import check_batch
from gymnast_core.policy.wire_arrays import encode_array
from gymnast_core.redaction import redact, remember_secret

TOKEN_VARIABLE = "GYMNAST_POLICY_TOKEN"
"""Environment variable with the token that policy servers ask for."""
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


@contextlib.contextmanager
def without_secrets() -> Iterator[None]:
    """What a server says reaches logs and results: a token that it repeats is taken out. Raises: DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(redact(str(error))) from error.__cause__


class RemotePolicy:
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
        self._connection = kind(parts.hostname or "", port, timeout=timeout_s)
        self._chunk_length = 0
        try:
            with without_secrets():
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
        with without_secrets():
            check_reset(self._post("/reset", b""), f"{self.address}/reset")

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._connection.close()

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Chunks (N, K, 7) float32. Raises: DataError for bad input, or when the server's answer is none."""
        with without_secrets():
            return np.stack([self._ask(frame, text) for frame, text in zip(*check_batch(frames, instructions))])

    def _ask(self, frame: np.ndarray, instruction: str) -> np.ndarray:
        where = f"{self.address}/act"
        request = json.dumps({"image": encode_array(frame), "instruction": instruction, "chunk": True}).encode()
        actions = read_actions(self._post("/act", request), where)
        wanted = self._chunk_length or len(actions)
        if len(actions) != wanted or not 1 <= wanted <= MAX_CHUNK:
            needed = self._chunk_length or f"1 to {MAX_CHUNK}"
            raise DataError(f"{where}: answered {len(actions)} actions, needed {needed}")
        return actions

    def _post(self, path: str, body: bytes) -> Answer:
        for last in (False, True):
            try:
                with cut_late(self._timeout_s, lambda: self._connection.sock, BROKEN) as end:
                    whole = self._send(path, body)
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

    def _send(self, path: str, body: bytes) -> bool:
        """Whether the server took the whole request: one that refuses it may have answered before its end.

        Raises: OSError when there is no connection.
        """
        try:
            self._connection.request("POST", self._path + path, body, self._headers)
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

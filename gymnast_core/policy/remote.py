"""A policy that runs elsewhere: behind the policy server's HTTP interface that AutoEval and others speak.

    POST /act     {"image": uint8 (H, W, 3), "instruction": text}  ->  actions (7,) or (K, 7), Bridge convention
    POST /reset   before each episode; a server without it answers 404

Arrays travel as json_numpy writes them: {"__numpy__": base64, "dtype": ..., "shape": ...}. The server's word is checked
like any other input: shape, type and finiteness.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import math
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from gymnast_core.data.episode import ACTION_DIM, check_actions
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy.config import MAX_CHUNK
from gymnast_core.policy.images import check_batch

MAX_REPLY = 1 << 20


class RemotePolicy:
    """Asks a policy server for each row of a batch, over one connection that is kept open.

    A policy that remembers what it saw is told of a new episode by `restart`; of several rows it would see the frames
    mixed, so give such a one a single row at a time.

    address: "http://host:port", with a path in front of /act where the server has one. timeout_s: for each answer.

    Raises: ConfigError when the address is not one, DataError when no policy answers there.
    """

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"policy '{address}': {error}; needed http://host:port") from error
        other = parts.query or parts.fragment or parts.username or parts.password
        if parts.scheme not in ("http", "https") or not parts.hostname or other:
            raise ConfigError(f"policy '{address}': needed http://host:port")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.address = address.rstrip("/")
        self._timeout_s = timeout_s
        self._path = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, port, timeout=timeout_s)
        self._chunk_length = 0
        self._chunk_length = self._ask(np.zeros((256, 256, 3), np.uint8), "test connection").shape[0]
        self.restart()

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk, as the server's first answer had."""
        return self._chunk_length

    def restart(self) -> None:
        """Tell the server that a new episode begins."""
        status, reply = self._post("/reset", b"")
        if status not in (200, 204, 404):
            raise DataError(f"{self.address}/reset: answered {status} {reply[:200]!r}, needed 200")

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._connection.close()

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Chunks (N, K, 7) float32. Raises: DataError for bad input, or when the server's answer is none."""
        return np.stack([self._ask(frame, text) for frame, text in zip(*check_batch(frames, instructions))])

    def _ask(self, frame: np.ndarray, instruction: str) -> np.ndarray:
        where = f"{self.address}/act"
        request = json.dumps({"image": encode_array(frame), "instruction": instruction}).encode()
        status, reply = self._post("/act", request)
        if status != 200:
            raise DataError(f"{where}: answered {status} {reply[:200].decode(errors='replace')!r}, needed 200")
        try:
            content = json.loads(reply)
            if isinstance(content, str):  # some servers encode twice
                content = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: answered no JSON ({error})") from error
        actions = decode_array(content, where)
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            actions = check_actions(actions[None] if actions.shape == (ACTION_DIM,) else actions, where)
        wanted = self._chunk_length or len(actions)
        if len(actions) != wanted or not 1 <= wanted <= MAX_CHUNK:
            needed = self._chunk_length or f"1 to {MAX_CHUNK}"
            raise DataError(f"{where}: answered {len(actions)} actions, needed {needed}")
        return actions

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        for last in (False, True):
            try:
                with self._time_limit() as end:
                    self._connection.request("POST", self._path + path, body, {"Content-Type": "application/json"})
                    answer = self._connection.getresponse()
                reply = _read(answer, end)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                stale = isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError))
                if last or not stale:  # a connection the server has closed meanwhile is opened once more
                    raise DataError(
                        f"{self.address}{path}: no policy server answers ({error or type(error).__name__})"
                    ) from error
                continue
            if len(reply) > MAX_REPLY:
                self._connection.close()
                raise DataError(f"{self.address}{path}: answered more than {MAX_REPLY} bytes")
            return answer.status, reply
        raise AssertionError("unreachable")

    @contextmanager
    def _time_limit(self) -> Iterator[float]:
        """Cuts the connection when the block takes too long: a socket's own time limit begins anew with every byte.

        Yields the end, on the monotonic clock. Raises: TimeoutError.
        """
        end, late = time.monotonic() + self._timeout_s, threading.Event()

        def cut() -> None:
            late.set()
            if (link := self._connection.sock) is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(link, socket.SHUT_RDWR)  # TLS is not told: another thread is in the midst

        timer = threading.Timer(self._timeout_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield end
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise TimeoutError("timed out") from error
            raise
        finally:
            timer.cancel()
        if late.is_set():  # a head that is cut off reads like a whole one
            raise TimeoutError("timed out")


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


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """An array as json_numpy writes it."""
    return {
        "__numpy__": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def decode_array(content: Any, where: str) -> np.ndarray:
    """Numbers from json_numpy's mapping or a plain list. Raises: DataError naming `where`."""
    try:
        if isinstance(content, dict) and "__numpy__" in content:
            if not re.fullmatch(r"[<>|=]?[fiu][1248]|float(16|32|64)|u?int(8|16|32|64)", str(content["dtype"])):
                raise ValueError(f"dtype {str(content['dtype'])[:20]!r} is no number")
            dtype, shape = np.dtype(str(content["dtype"])), tuple(int(n) for n in content["shape"])
            blob = base64.b64decode(content["__numpy__"], validate=True)
            if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(blob):
                raise ValueError(f"{len(blob)} bytes for shape {shape} of {dtype}")
            return np.frombuffer(blob, dtype).reshape(shape)
        if isinstance(content, list):
            return np.asarray(content, dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise DataError(f"{where}: not an array ({error})") from error
    raise DataError(f"{where}: found {type(content).__name__}, needed an array of actions")

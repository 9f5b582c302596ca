"""Answers of other people's policy servers: a right chunk is understood, a wrong one refused in its words."""

from __future__ import annotations

import gzip
import json
import math
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.errors import DataError
from gymnast_core.policy.answers import MAX_REPLY, Answer, read_actions
from gymnast_core.policy.remote import RemotePolicy
from gymnast_core.policy.wire_arrays import encode_array

CHUNK = np.tile(np.array([0.01, -0.02, 0.0, 0.0, 0.1, 0.0, 1.0]), (8, 1)) * np.arange(1, 9)[:, None] / 8
NESTED = CHUNK.tolist()
PAGE = b"<!DOCTYPE html><html><head><title>Sign in\n to the lab</title></head><body>x</body></html>"


@contextmanager
def serving(
    status: int = 200,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    reset: bytes | None = None,
    limit: int = 1 << 30,
    otherwise: bytes = b"",
) -> Iterator[str]:
    """A server on loopback that answers every /act so; /reset with 404, or with 200 and `reset`. Yields its address.

    limit: a longer request is answered before its body was read, a shorter one then with 200 and `otherwise`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            long = int(self.headers["Content-Length"]) > limit
            if not long:
                self.rfile.read(int(self.headers["Content-Length"]))
            act = self.path == "/act"
            fine = otherwise and not long
            self.send_response((200 if fine else status) if act else 404 if reset is None else 200)
            for name, value in (headers or {}).items() if act else ():
                self.send_header(name, value)
            content = (otherwise if fine else body) if act else reset or b""
            if "Content-Length" not in (headers or {}) or not act:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None, **more: Any) -> np.ndarray:
    """What a `RemotePolicy` makes of that answer."""
    with serving(status, body, headers, **more) as address:
        policy = RemotePolicy(address, 5.0)
        try:
            return policy.act(np.zeros((1, 32, 32, 3), np.uint8), ["open"])[0]
        finally:
            policy.close()


def text(content: Any) -> bytes:
    return json.dumps(content).encode()


RIGHT: dict[str, Any] = {
    "json_numpy": encode_array(CHUNK),
    "big-endian": encode_array(CHUNK.astype(">f4")),
    "lists": NESTED,
    "list of arrays": [encode_array(row) for row in CHUNK],
    "list of arrays of one row": [encode_array(row[None]) for row in CHUNK],
    "numbers as arrays": [[encode_array(np.float64(x)) for x in row] for row in CHUNK],
    "encoded twice": json.dumps(encode_array(CHUNK)),
    "list encoded twice": json.dumps([encode_array(row) for row in CHUNK]),
    "each row encoded twice": [json.dumps(encode_array(row)) for row in CHUNK],
    "actions": {"actions": NESTED, "server_timing": {"infer_ms": 3.1}},
    "action": {"action": encode_array(CHUNK), "error": None},
    "actions of arrays": {"actions": [encode_array(row) for row in CHUNK], "status": "ok", "message": "done"},
    "actions encoded twice": {"actions": json.dumps(NESTED)},
    "batch of one": encode_array(CHUNK[None]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_chunk_is_understood_however_it_is_written(name: str) -> None:
    assert ask(text(RIGHT[name])) == pytest.approx(CHUNK, abs=1e-6)


def test_a_single_action_and_a_compressed_chunk_are_understood() -> None:
    for single in (NESTED[0], encode_array(CHUNK[0]), [NESTED[0]], {"action": NESTED[0]}):
        assert ask(text(single)) == pytest.approx(CHUNK[:1], abs=1e-6)
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        assert ask(pack(text(NESTED)), headers={"Content-Encoding": encoding}) == pytest.approx(CHUNK, abs=1e-6)
    assert ask(text(NESTED), reset=text({"status": "reset done"})) == pytest.approx(CHUNK, abs=1e-6)


WRONG: tuple[tuple[bytes, str], ...] = (
    (text({"error": "Server not ready; model failed to load."}), "'Server not ready; model failed to load.'"),
    (text("error"), "'error'"),
    (text(json.dumps({"error": "no\x1b[31m GPU\n\nleft"})), "'no \\[31m GPU left'"),
    (text({"detail": [{"loc": ["body", "image"], "msg": "field required"}]}), "field required"),
    (text({"success": False, "message": "robot is busy"}), "'robot is busy'"),
    (text({"status": "error", "actions": NESTED}), "error"),
    (text({"error": True, "message": "out of memory"}), "'out of memory'"),
    (text({"error": "half a chunk", "actions": NESTED}), "'half a chunk'"),
    (text([{"error": "out of memory"}]), "'out of memory'"),
    (text({"status": "warming up"}), "warming up"),
    (text({"world_vector": [0, 0, 0], "open_gripper": 1}), "world_vector.*needed actions or action"),
    (text({"action": NESTED[0], "actions": NESTED}), "needed actions or action"),
    (PAGE, "an HTML page \\('Sign in to the lab'\\)"),
    (b"", "no JSON: empty"),
    (b"Internal Server Error", "no JSON: text \\('Internal Server Error'\\)"),
    (b"\x80\x04\x95 pickled", "a Python pickle"),
    (gzip.compress(text(NESTED)), "gzip data"),
    (text((CHUNK * math.nan).tolist()), "finite"),
    (text(CHUNK[:, :6].tolist()), "shape \\(8, 6\\)"),
    (text(np.ones(8).tolist()), "shape \\(8,\\)"),
    (text(np.ones((2, 8, 7)).tolist()), "shape \\(2, 8, 7\\)"),
    (text([encode_array(CHUNK[0]), encode_array(CHUNK[:2])]), "parts of shapes"),
    (text([[str(x) for x in row] for row in NESTED]), "found text '0.00125', needed numbers"),
    (text([[*row[:6], True] for row in NESTED]), "found true, needed numbers"),
    (text([[*row[:6], None] for row in NESTED]), "found null, needed numbers"),
    (text({"__numpy__": "AAAA", "dtype": "|O", "shape": [1]}), "is no number"),
    (text({"__numpy__": "AAAA", "dtype": "<f4", "shape": [7]}), "3 bytes for shape"),
    (text({"__numpy__": "AAAA", "dtype": "<f4", "shape": [10**9] * 50_000}), "bytes for shape"),
    (text(None), "found null"),
    (text(3), "found 3"),
    (text([]), "shape"),
    (text([[[[[[[0.0] * 7]]]]]]), "nested deeper"),
    (b'{"actions": [[0,0,0,0,0,0,1]], "actions": [[1,0,0,0,0,0,1]]}', "'actions' stands there twice"),
    (b"[" * 100_000, "no JSON"),
    (b'{"a":' * 100_000, "no JSON"),
    (b"1" * 10_000, "no JSON"),
    (text([[10**400] * 7]), "too large"),
)


@pytest.mark.parametrize(("body", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_answer_is_refused_in_the_servers_own_words(body: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"/act: .*{message}") as caught:
        ask(body)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_status_redirect_and_reset_are_told() -> None:
    for status, headers, body, message in (
        (302, {"Location": "https://sso.example/login?x\n"}, PAGE, "302, a redirect to 'https://sso.example/login"),
        (503, {}, text({"error": "model is loading"}), "503, 'model is loading'"),
        (422, {}, text({"detail": [{"msg": "field required"}]}), "422, .*field required"),
        (500, {}, PAGE, "500, an HTML page"),
        (500, {}, b"x" * (2 * MAX_REPLY), "500, text"),
        (500, {"Content-Length": "99"}, b"half", "500"),
        (404, {}, b"", "404, empty"),
    ):
        clean = {name: value.strip() for name, value in headers.items()}
        with pytest.raises(DataError, match=f"/act: answered {message}") as caught:
            ask(body, status, clean)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(DataError, match="/reset: answered 'arm is in use'"):
        ask(text(NESTED), reset=text({"error": "arm is in use"}))
    with pytest.raises(DataError, match="/reset: answered 'error'"):
        ask(text(NESTED), reset=text("error"))


def test_a_server_that_refuses_the_request_before_its_end_is_heard() -> None:
    """nginx answers 413 and closes; what is sent on meanwhile breaks the pipe."""
    with serving(413, b"Request Entity Too Large", limit=1 << 20, otherwise=text(NESTED)) as address:
        policy = RemotePolicy(address, 5.0)
        for _ in range(2):
            with pytest.raises(DataError, match="/act: answered 413, text"):
                policy.act(np.zeros((1, 1536, 1536, 3), np.uint8), ["open"])
        assert policy.act(np.zeros((1, 32, 32, 3), np.uint8), ["open"]).shape == (1, 8, 7), "smaller ones go on"


def test_a_body_without_end_costs_a_megabyte() -> None:
    bomb = gzip.compress(b" " * (64 * MAX_REPLY))
    assert len(bomb) < MAX_REPLY
    with pytest.raises(DataError, match="more than 1048576 bytes once unpacked"):
        ask(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(DataError, match="more than 1048576 bytes"):
        ask(b" " * (2 * MAX_REPLY))
    with pytest.raises(DataError, match="encoding 'br'"):
        ask(b"x", headers={"Content-Encoding": "br"})
    with pytest.raises(DataError, match="cut short"):
        ask(gzip.compress(text(NESTED))[:-9], headers={"Content-Encoding": "gzip"})


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(
            st.sampled_from(["actions", "action", "error", "detail", "status", "__numpy__", "dtype", "shape"]), inner
        )
    ),
)


@given(st.one_of(st.binary(max_size=60), JSON.map(text), st.lists(st.lists(st.floats(), max_size=9)).map(text)))
def test_any_answer_is_a_finite_chunk_or_one_line(body: bytes) -> None:
    try:
        actions = read_actions(Answer(200, body), "server/act")
    except DataError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        assert actions.dtype == np.float32 and actions.shape[1:] == (7,) and np.isfinite(actions).all()

"""Bad input to `gymnast serve`: a clear refusal for whoever sent it, and an answer for everybody else."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gymnast_core.cli import main
from gymnast_core.errors import DataError
from gymnast_core.policy.load import open_policy
from tests.machine import in_time
from tests.serving import Served, body_of, frames_of, from_msgpack_numpy, json_numpy, msgpack_numpy, post, serving

TOKEN = "one-long-token-4711"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FRAME = frames_of(1)[0]
LIMITS = ("--max-body", "1", "--receive-seconds", "1", "--max-clients", "12", "--rate", "8", "--idle-seconds", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("script") / "script.npz"
    np.savez(path, actions=np.tile(np.float32([0.01, 0, 0, 0, 0, 0, 1]), (50, 1)))
    with serving("--policy", str(path), *LIMITS, GYMNAST_SERVE_TOKEN=TOKEN) as served:
        yield served
        assert served.process.poll() is None, served.output.read_text()
        assert "Traceback" not in served.output.read_text()


@pytest.fixture
def link(server: Served) -> Iterator[http.client.HTTPConnection]:
    """A client of its own; afterwards the server still answers it."""
    made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    yield made
    made.close()
    status, answer = post(made, "/act", body_of(FRAME, session="last"), **BEARER)
    assert status == 200 and answer["shape"] == [7]
    made.close()


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(FRAME).save(stream, "PNG")
    return stream.getvalue()


def changed(**changes: Any) -> dict[str, Any]:
    return {**json_numpy(FRAME), **changes}


WRONG: dict[str, tuple[bytes, str]] = {
    "a picture's own bytes": (png(), "a PNG picture"),
    "a picture as base64": (body_of(json_numpy(np.frombuffer(png(), np.uint8))["__numpy__"]), "a PNG picture as text"),
    "PNG bytes in an array": (body_of(np.frombuffer(png(), np.uint8)), "shape"),
    "lists": (body_of(FRAME[:16, :16].tolist()), "found a list"),
    "float32": (body_of(FRAME.astype(np.float32)), "found float32, needed a uint8"),
    "objects": (body_of(changed(dtype="|O")), "'\\|O' is no number"),
    "a structured type": (body_of(changed(dtype=[["a", "<f4"]])), "is no number"),
    "a pickle as a type": (body_of(changed(dtype="O8", __numpy__="gASVAAA=")), "is no number"),
    "channels first": (body_of(FRAME.transpose(2, 0, 1).copy()), "found shape \\(3, 64, 64\\)"),
    "a tiny picture": (body_of(FRAME[:8, :8].copy()), "16"),
    "a shape that is a lie": (body_of(changed(shape=[1 << 40, 1 << 40, 3])), "12288 bytes for shape"),
    "a negative side": (body_of(changed(shape=[-64, -64, 3])), "bytes for shape"),
    "no base64": (body_of(changed(__numpy__="***")), "not an array"),
    "no picture": (json.dumps({"instruction": "x"}).encode(), "image: missing"),
    "no instruction": (json.dumps({"image": json_numpy(FRAME)}).encode(), "instruction: missing"),
    "an instruction that is a number": (body_of(FRAME, 3), "instruction: found int"),
    "an instruction without end": (body_of(FRAME, "a" * 5000), "5000 characters"),
    "the prompt's markers": (body_of(FRAME, "open. Out: x"), "marker"),
    "a state that is text": (body_of(FRAME, proprio="home"), "proprio: found text"),
    "a state with NaN": (body_of(FRAME, proprio=json_numpy(np.full(8, np.nan, np.float32))), "not finite"),
    "a state of 10,000": (body_of(FRAME, proprio=json_numpy(np.zeros(10_000, np.float32))), "up to 64 numbers"),
    "chunk: 8": (body_of(FRAME, chunk=8), "chunk: found int"),
    "a session of lists": (body_of(FRAME, session=["a"]), "session: found a list"),
    "half of the JSON": (body_of(FRAME)[:-20], "no JSON"),
    "nothing": (b"", "no JSON: empty"),
    "a name twice": (b'{"image": 1, "image": 2}', "twice"),
    "a deep nest": (b"[" * 100_000, "nested too deeply"),
    "a list": (b"[1, 2]", "found a list, needed a JSON object"),
    "encoded numbers": (b'{"encoded": 3}', "encoded: found int"),
    "a web form": (b"image=x&instruction=y", "text \\('image=x&instruction=y'\\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(server: Served, name: str) -> None:
    body, words = WRONG[name]
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    status, answer = post(link, "/act", body, **BEARER)
    link.close()
    assert status == 400 and set(answer) == {"detail"}
    told = answer["detail"]
    assert re.search(words, told) and "\n" not in told and len(told) < 320


def test_whoever_has_no_token_is_sent_away(server: Served, link: http.client.HTTPConnection) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        for path in ("/act", "/reset"):
            status, answer = post(link, path, body_of(FRAME), **headers)
            assert status == 401 and "Authorization: Bearer" in answer["detail"] and TOKEN not in answer["detail"]
        with pytest.raises(InvalidStatus) as caught:
            connect(server.ws, additional_headers=headers)
        assert caught.value.response.status_code == 401
    assert post(link, "/act", body_of(FRAME, session="key"), Authorization=f"Api-Key {TOKEN}")[0] == 200
    assert post(link, "/act", body_of(FRAME), Origin="http://evil.example", **BEARER)[0] == 403
    link.request("GET", "/health")
    answer = link.getresponse()
    assert answer.status == 200 and answer.read() == b'{"status":"healthy"}'


def test_our_clients_send_the_token_and_repeat_the_servers_words(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in (server.http, server.ws):
        monkeypatch.delenv("GYMNAST_POLICY_TOKEN", raising=False)
        with pytest.raises(DataError, match="401, 'found no token; needed the header Authorization"):
            open_policy(address)
        monkeypatch.setenv("GYMNAST_POLICY_TOKEN", TOKEN)
        client = open_policy(address)
        assert client.act(FRAME[None], ["open it"]).shape == (1, 5, 7)
        big = np.zeros((1, 700, 700, 3), np.uint8)
        with pytest.raises(DataError, match="allowed are 1000000"):
            client.act(big, ["open it"])
        assert client.act(FRAME[None], ["open it"]).shape == (1, 5, 7), "smaller ones go on"
        client.close()  # type: ignore[attr-defined]


def until_closed(raw: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # a server that has closed answers what still comes by a reset
        while part := raw.recv(4096):
            answer += part
    return answer


def test_a_picture_of_ten_megabytes_is_refused_and_heard(server: Served, link: http.client.HTTPConnection) -> None:
    assert post(link, "/act", body_of(np.zeros((900, 900, 3), np.uint8)), **BEARER)[0] == 413
    body = body_of(np.zeros((1826, 1826, 3), np.uint8))
    assert len(body) > 10_000_000
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"POST /act HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % TOKEN.encode())
        raw.sendall(b"Content-Length: %d\r\n\r\n" % len(body))  # it need not send what is refused already
        answer = until_closed(raw)
    assert answer.startswith(b"HTTP/1.1 413") and b"allowed are 1000000" in answer
    chunked = iter([b"x" * 100_000] * 30)
    link.request("POST", "/act", chunked, BEARER, encode_chunked=True)
    refused = link.getresponse()
    assert refused.status == 413 and b"more than 1000000 bytes" in refused.read()


def test_a_request_that_does_not_come_to_its_end_costs_nothing(
    server: Served, link: http.client.HTTPConnection
) -> None:
    head = b"POST /act HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 5000\r\n\r\n" % TOKEN.encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as gone:
        gone.sendall(head + b"{" * 100)  # and leaves
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
        slow.sendall(head)
        slow.settimeout(0.1)
        began, told = time.monotonic(), b""
        while not told and in_time(10.0, began):
            with contextlib.suppress(TimeoutError):
                told = slow.recv(4096)
            if not told:
                slow.sendall(b" ")  # every byte begins a socket's own time limit anew
        slow.settimeout(60)
        told += until_closed(slow)
        assert told.startswith(b"HTTP/1.1 408") and b"whole within 1 s" in told


def test_hundreds_of_silent_connections_leave_room_for_a_client(
    server: Served, link: http.client.HTTPConnection
) -> None:
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(400)
        ]
        assert post(link, "/act", body_of(FRAME, session="busy"), **BEARER)[0] == 200
        assert opened[0].recv(1) == b"", "the oldest is closed, long before its time"
        assert post(link, "/act", body_of(FRAME, session="busy"), **BEARER)[0] == 200


def test_too_many_clients_and_too_many_requests_are_told_so(server: Served, link: http.client.HTTPConnection) -> None:
    def refusal(wanted: int, *sessions: str) -> str:
        """What one of these is told when it is refused; a slow machine asks too slowly at first."""
        began = time.monotonic()
        while in_time(20.0, began):
            for session in sessions:
                status, answer = post(link, "/act", body_of(FRAME, session=session), **BEARER)
                if status == wanted:
                    return str(answer["detail"])
        pytest.fail(f"no answer was {wanted}")

    assert post(link, "/act", body_of(FRAME, session="fast"), **BEARER)[0] == 200
    assert "more than 8 requests a second" in refusal(429, "fast")
    assert "12 clients are served already" in refusal(503, *(f"crowd {number}" for number in range(13)))
    began = time.monotonic()
    for number in range(6):  # room for the other tests as well
        while post(link, "/act", body_of(FRAME, session=f"later {number}"), **BEARER)[0] == 503:
            assert in_time(10.0, began), "clients that ask nothing are forgotten"
            time.sleep(0.2)


def told(link: ClientConnection, message: bytes | str) -> str:
    """The text that a wrong message is answered by."""
    link.send(message)
    answer = link.recv(timeout=60)
    assert isinstance(answer, str), from_msgpack_numpy(answer)
    assert "Traceback" not in answer and "\n" not in answer
    return answer


def test_a_wrong_message_is_told_what_is_wrong_and_the_connection_stays(server: Served) -> None:
    right = {"observation/image": FRAME, "prompt": "open it"}
    array = {b"__ndarray__": True, b"data": FRAME.tobytes(), b"dtype": "|u1", b"shape": [64, 64, 3]}
    with connect(server.ws, additional_headers=BEARER, compression=None) as link:
        link.recv(timeout=60)
        assert "found text" in told(link, "{}")
        assert "a PNG picture" in told(link, png())
        assert "image: found a PNG picture" in told(link, msgpack_numpy({**right, "observation/image": png()}))
        assert "found float32" in told(link, msgpack_numpy({**right, "observation/image": FRAME.astype(np.float32)}))
        for name, value in ((b"dtype", "|O"), (b"shape", [1 << 40]), (b"shape", [64, 64]), (b"data", "text")):
            wrong = msgpack.packb({"prompt": "open it", "observation/image": {**array, name: value}})
            assert "no msgpack message" in told(link, wrong)
        assert "no msgpack message" in told(link, msgpack_numpy(right)[:-10])
        assert "no msgpack message" in told(link, b"\xdd\xff\xff\xff\xff")  # a list of four billion
        assert "needed a mapping" in told(link, msgpack.packb([1]))
        assert "prompt: missing" in told(link, msgpack_numpy({"observation/image": FRAME}))
        assert "endpoint: found 'fly'" in told(link, msgpack_numpy({**right, "endpoint": "fly"}))
        link.send(msgpack_numpy(right))
        assert from_msgpack_numpy(link.recv(timeout=60))["actions"].shape == (5, 7)
        assert "allowed are 1000000" in told(link, b"x" * 1_500_000)
        with pytest.raises(ConnectionClosed):
            link.recv(timeout=60)


def test_a_network_without_a_token_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--token" in said and "--insecure" in said
    for words, named in (
        (["--policy", "no/such"], "no/such"),
        (["--policy", "expert"], "--policy: found expert"),
        (["--tls-key", "key.pem"], "--tls-cert"),
        (["--token", "two words"], "--token"),
    ):
        assert main(["serve", "--port", "0", *words]) == 2
        assert named in capsys.readouterr().err

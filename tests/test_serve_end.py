"""`gymnast serve` ends as it should: what it accepted is answered, nothing more is accepted, and it does not hang."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gymnast_core.errors import DataError
from gymnast_core.policy.load import open_policy
from tests.machine import HANG_S, in_time
from tests.serving import body_of, frames_of, from_json_numpy, post, serving

FRAME = frames_of(1)[0]


@pytest.fixture
def script(tmp_path: Path) -> str:
    actions = np.tile(np.float32([0.01, 0, 0, 0, 0, 0, 1]), (50, 1)) * np.arange(50, dtype=np.float32)[:, None] / 50
    np.savez(tmp_path / "script.npz", actions=actions)
    return str(tmp_path / "script.npz")


def half_sent(port: int, body: bytes) -> socket.socket:
    """A connection over which half of a request has gone, and is known to have arrived."""
    made = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST /act HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    made.sendall(head)
    assert made.recv(100).startswith(b"HTTP/1.1 100"), "the server asks for the body"
    made.sendall(body[: len(body) // 2])
    return made


def test_what_was_accepted_is_answered_and_nothing_more(script: str) -> None:
    with serving("--policy", script) as served:
        body = body_of(FRAME)
        link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        assert post(link, "/act", body)[0] == 200
        raw = half_sent(served.port, body)
        with connect(served.ws) as idle:
            idle.recv(timeout=60)
            served.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            while "ending" not in served.output.read_text():
                assert in_time(10.0, began)
                time.sleep(0.02)
            status, answer = post(link, "/act", body)
            assert status == 503 and "the server is ending" in answer["detail"]
            with pytest.raises(OSError):
                while in_time(10.0, began):
                    socket.create_connection(("127.0.0.1", served.port), timeout=60).close()
            raw.sendall(body[len(body) // 2 :])
            answered = b""
            while part := raw.recv(65536):
                answered += part
            head, _, content = answered.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200") and from_json_numpy(json.loads(content)).shape == (7,)
            with pytest.raises(ConnectionClosed):
                idle.recv(timeout=60)
        assert served.process.wait(HANG_S) == 0
        raw.close()


def test_a_client_that_never_comes_to_its_end_does_not_hold_the_server(script: str) -> None:
    with serving("--policy", script, "--drain-seconds", "0.5") as served:
        raw = half_sent(served.port, body_of(FRAME))
        assert served.end(5.0) == 1
        assert "1 requests were not answered" in served.output.read_text()
        raw.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate")
def test_clients_over_tls_each_play_their_own_script_and_say_that_the_server_has_gone(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that remembers is opened once for each client; a lost server is one line."""
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True, timeout=HANG_S)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    tls = ("--policy", script, "--tls-cert", certificate, "--tls-key", key)
    with serving(*tls) as served:
        clients = [open_policy(served.http), open_policy(served.ws), open_policy(served.ws)]
        first = [client.act(FRAME[None], ["open it"])[0] for client in clients]
        second = [client.act(FRAME[None], ["open it"])[0] for client in clients]
        assert all(np.array_equal(chunk, first[0]) for chunk in first)
        assert all(np.array_equal(chunk, second[0]) for chunk in second) and not np.array_equal(first[0], second[0])
        for client in clients:
            client.restart()  # type: ignore[attr-defined]
            assert np.array_equal(client.act(FRAME[None], ["open it"])[0], first[0]), "a new episode begins anew"
        assert served.end(10.0) == 0
    for client in clients:
        with pytest.raises(DataError, match="no policy server answers"):
            client.act(FRAME[None], ["open it"])

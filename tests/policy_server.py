"""A policy server as AutoEval has them, in this process, that can be told to misbehave."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from gymnast_core.protocols import Policy


class PolicyServer(ThreadingHTTPServer):
    """Serves `policy` on loopback from construction to `end`.

    paths: what was asked. tokens: the Authorization headers that came, None for none. frames, instructions: of the
    requests to /act. spoil: changes what is answered: given the actions (K, 7), a body instead of them, or None.
    before: called before each answer of /act.
    """

    daemon_threads = True

    def __init__(self, policy: Policy, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.policy = policy
        self.paths: list[str] = []
        self.tokens: set[str | None] = set()
        self.frames: list[np.ndarray] = []
        self.instructions: list[str] = []
        self.spoil: Callable[[np.ndarray], bytes | None] = lambda actions: None
        self.before: Callable[[], object] = lambda: None
        self._connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        self._connections.append(request)
        super().process_request(request, client_address)

    def end(self) -> None:
        """Go as a killed process goes: the port is closed, and so is every connection."""
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed already
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: PolicyServer = self.server  # type: ignore[assignment]
        server.paths.append(self.path)
        server.tokens.add(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/act":
            return self.answer(404, b"{}")
        request = json.loads(body)
        image = request["image"]
        frame = np.frombuffer(base64.b64decode(image["__numpy__"]), image["dtype"]).reshape(image["shape"])
        server.frames.append(frame)
        server.instructions.append(request["instruction"])
        actions = server.policy.act(frame[None], [request["instruction"]])[0]
        server.before()
        encoded = {"__numpy__": base64.b64encode(actions.tobytes()).decode(), "dtype": "<f4", "shape": actions.shape}
        return self.answer(200, server.spoil(actions) or json.dumps(encoded).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...

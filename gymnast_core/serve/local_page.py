"""A page for a person: a small server in threads of its own, reached by an address with a secret in it.

No other page knows the secret. Where the page listens on this machine alone, requests under another host's name (a name
that was made to lead here) are refused as well.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from gymnast_core.addresses import is_this_machine
from gymnast_core.errors import DataError
from gymnast_core.plain_json import parse_json

MAX_BODY = 4096
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self'; connect-src 'self'"
HTML, JSON, PNG, TEXT = "text/html; charset=utf-8", "application/json", "image/png", "text/plain"
Answer = tuple[int, str, bytes]
"""Status, type and content."""


class LocalPage:
    """The server; a subclass says in `respond` what is there.

    name: of its thread. before: stands before the secret in `address`, where people reach this machine otherwise than
    by host and port. setting: the one of the port, for people.

    Raises: DataError where the port is taken.
    """

    def __init__(
        self, name: str, host: str = "127.0.0.1", port: int = 0, before: str = "", setting: str = "--port"
    ) -> None:
        self._secret = secrets.token_urlsafe(16)
        page = self

        class Handler(_Handler):
            answer = page.answer
            answered = page.answered

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise DataError(f"port {port}: {error.strerror or error}; choose another {setting}") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        names = (f"127.0.0.1:{self.port}", f"localhost:{self.port}", f"{host}:{self.port}", urlsplit(before).netloc)
        self._names = names if is_this_machine(host) else ()
        """Under which the page answers; empty: under any."""
        if not before:
            named = socket.gethostname() if host == "0.0.0.0" else host
            before = f"http://{named}:{self.port}"
        self.address = f"{before.rstrip('/')}/{self._secret}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)

    def answer(self, headers: Mapping[str, str], path: str, body: dict[str, Any] | None) -> Answer:
        """What a request gets. body: None for one that only looks."""
        if self._names and headers.get("Host", "") not in self._names:
            return 403, TEXT, b"this page answers under the name of this machine alone"
        first, *parts = path.split("?")[0].strip("/").split("/")
        if not secrets.compare_digest(first.encode(), self._secret.encode()):
            return 404, TEXT, b"there is no such page; take the address that was printed"
        return self.respond(parts, headers, body)

    def respond(self, parts: list[str], headers: Mapping[str, str], body: dict[str, Any] | None) -> Answer:
        """The answer behind the secret. parts: of the path."""
        raise NotImplementedError

    def answered(self) -> None:
        """An answer has been sent."""


class _Handler(BaseHTTPRequestHandler):
    """HTTP around `LocalPage.answer`."""

    timeout = 60.0

    @staticmethod
    def answer(headers: Mapping[str, str], path: str, body: dict[str, Any] | None) -> Answer:
        raise NotImplementedError

    @staticmethod
    def answered() -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._send(*self.answer(self._headers(), self.path, None))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        json_only = self.headers.get_content_type() == JSON  # a form of another page cannot send it
        if not json_only or not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            self._send(400, TEXT, b"needed a small JSON object")
            return
        try:
            body = parse_json(self.rfile.read(int(length)))
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._send(400, TEXT, b"needed a JSON object")
            return
        self._send(*self.answer(self._headers(), self.path, body))
        self.wfile.flush()
        self.answered()

    def _headers(self) -> dict[str, str]:
        return {name.title(): value for name, value in self.headers.items()}

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "private, max-age=3600" if kind == PNG else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""

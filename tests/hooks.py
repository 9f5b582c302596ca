"""A server for webhooks on loopback, which keeps what it was sent."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hooks(ThreadingHTTPServer):
    """calls: what came by path. status, reply: what is answered, once `goes_on` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: dict[str, queue.SimpleQueue[dict[str, Any]]] = {
            path: queue.SimpleQueue() for path in ("/json", "/slack")
        }
        self.status = 200
        self.reply = b""
        self.goes_on = threading.Event()
        self.goes_on.set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def forget(self) -> None:
        """The calls so far."""
        for calls in self.calls.values():
            while not calls.empty():
                calls.get()

    def end(self) -> None:
        """Close the port."""
        self.goes_on.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Hooks = self.server  # type: ignore[assignment]
        server.calls[self.path].put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        server.goes_on.wait()
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.reply)))
        self.end_headers()
        self.wfile.write(server.reply)

    def log_message(self, *_: object) -> None: ...

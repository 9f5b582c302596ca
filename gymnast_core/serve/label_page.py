"""Labelling on a page: a small server on this machine alone, the film of an episode, and a key for each label.

The page is reached by an address with a secret in it, which no other page knows; requests under another host's name
(a name that was made to lead here) are refused. It asks for numbers of episodes and frames, never for files.
"""

from __future__ import annotations

import json
import secrets
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gymnast_core.data.frames import encode_image
from gymnast_core.errors import DataError, GymnastError
from gymnast_core.evaluation.labelling import Labelling
from gymnast_core.plain_json import parse_json
from gymnast_core.progress import interruptible, say

PAGE = Path(__file__).with_name("label.html")
MAX_BODY = 4096
KEPT_EPISODES = 4
"""Episodes whose encoded frames are kept."""
POLL_S = 0.2
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self'; connect-src 'self'"


def serve_page(session: Labelling, port: int = 0) -> None:
    """Serve until the person ends it, on the page or by Ctrl-C. Raises: DataError where the port is taken."""
    with interruptible() as stop:
        page = LabelPage(session, port)
        say(f"label on {page.address} (it ends on the page, or by Ctrl-C)", "bold")
        try:
            while not stop and not page.ended.wait(POLL_S):
                pass
        finally:
            page.close()


class LabelPage:
    """The server, in threads of its own. address: of the page. ended: set once the person has ended it."""

    def __init__(self, session: Labelling, port: int = 0) -> None:
        self.session = session
        self.ended = threading.Event()
        self._ending = False
        self._secret = secrets.token_urlsafe(16)
        self._frames = lru_cache(maxsize=KEPT_EPISODES)(self._encode)
        self._decoding = threading.Lock()
        page = self

        class Handler(_Handler):
            answer = page.answer
            answered = page.answered

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise DataError(f"port {port}: {error.strerror or error}; choose another --port") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}/{self._secret}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="label page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)

    def answer(self, host: str, path: str, body: dict[str, Any] | None) -> tuple[int, str, bytes]:
        """Status, type and content for a request. host: of its header. body: None for one that only looks."""
        if host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            return 403, "text/plain", b"this page answers under the name of this machine alone"
        parts = path.split("?")[0].strip("/").split("/")
        if not secrets.compare_digest(parts[0].encode(), self._secret.encode()):
            return 404, "text/plain", b"no such page; the whole address stands in the terminal"
        try:
            if body is None and len(parts) == 1:
                return 200, "text/html; charset=utf-8", PAGE.read_bytes()
            if body is None and len(parts) == 4 and parts[1] == "frame":
                number = self._number(parts[2])
                frames = self._frames(number)
                return 200, "image/png", frames[_index(parts[3], len(frames), "frame")]
            found = self._look(parts[1:]) if body is None else self._change(parts[1:], body)
            return 200, "application/json", json.dumps(found).encode()
        except GymnastError as error:
            return 400, "application/json", json.dumps({"error": " ".join(str(error).split())}).encode()

    def answered(self) -> None:
        """An answer has been sent: only then may the process end that was asked to."""
        if self._ending:
            self.ended.set()

    def _look(self, parts: list[str]) -> dict[str, Any]:
        """What the page shows: the whole session, or one episode. Raises: DataError."""
        session = self.session
        if parts == ["session"]:
            labelled = [label is not None for label in session.labels]
            return {"labelled": labelled, "next": session.after(-1), "agreement": session.agreement()}
        if len(parts) == 2 and parts[0] == "episode":
            return self._episode(self._number(parts[1]))
        raise DataError(f"found {'/'.join(parts)[:40]!r}; there is no such thing here")

    def _change(self, parts: list[str], body: dict[str, Any]) -> dict[str, Any]:
        """Do what the person decided. Raises: DataError."""
        if parts == ["end"]:
            self._ending = True
            return {}
        if len(parts) != 2 or parts[0] not in ("label", "clear"):
            raise DataError(f"found {'/'.join(parts)[:40]!r}; there is no such thing here")
        number = self._number(parts[1])
        if parts[0] == "clear":
            self.session.clear(number)
            return self._episode(number)
        if unknown := set(body) - {"success", "step"}:
            raise DataError(f"label: found {sorted(unknown)[0][:40]!r}; allowed are success and step")
        success, step = body.get("success"), body.get("step")
        if not isinstance(success, (bool, type(None))):
            raise DataError(f"success: found {success!r:.40}, needed true, false or null")
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
            raise DataError(f"step: found {step!r:.40}, needed a frame's number, or null")
        self.session.set(number, success, step)
        return self._episode(number)

    def _episode(self, number: int) -> dict[str, Any]:
        """An episode as the page shows it; what others say of it once it has a label."""
        source, label = self.session.episodes[number], self.session.labels[number]
        said = self.session.said(number) if label is not None and label.success is not None else ()
        return {
            "number": number,
            "path": str(source.path),
            "instruction": source.describe().instruction,
            "frames": source.count(),
            "label": label.words if label is not None else "",
            "step": label.step if label is not None else None,
            "said": [one.beside(label) for one in said if label is not None],
        }

    def _number(self, text: str) -> int:
        return _index(text, len(self.session.episodes), "episode")

    def _encode(self, number: int) -> list[bytes]:
        """Every frame of an episode as PNG."""
        with self._decoding:
            return [encode_image(frame) for frame in self.session.episodes[number].frames()]


def _index(text: str, count: int, name: str) -> int:
    """A number in a path. Raises: DataError outside 0 to count - 1."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= count:
        raise DataError(f"{name}: found {text[:40]!r}, allowed are 0 to {count - 1}")
    return int(text)


class _Handler(BaseHTTPRequestHandler):
    """HTTP around `LabelPage.answer`."""

    timeout = 60.0

    @staticmethod
    def answer(host: str, path: str, body: dict[str, Any] | None) -> tuple[int, str, bytes]:
        raise NotImplementedError

    @staticmethod
    def answered() -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._send(*self.answer(self.headers.get("Host", ""), self.path, None))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        json_only = self.headers.get_content_type() == "application/json"  # a form of another page cannot send it
        if not json_only or not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            self._send(400, "text/plain", b"needed a small JSON object")
            return
        try:
            body = parse_json(self.rfile.read(int(length)))
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._send(400, "text/plain", b"needed a JSON object")
            return
        self._send(*self.answer(self.headers.get("Host", ""), self.path, body))
        self.wfile.flush()
        self.answered()

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "private, max-age=3600" if kind == "image/png" else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""

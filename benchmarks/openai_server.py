"""A judge's server on the loopback, for judging without a provider: it answers or fails as asked.

Without more it is an OpenAI-style chat server. A request that is a multipart form is given to the script as {name:
bytes}, and its path is kept.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, str] | tuple[int, str | bytes, dict[str, str]] | str | None
"""(status, body) or (status, body, headers); the text of a chat answer; or None: silence."""
SILENCE_S = 20.0


class Server:
    """The n-th request, a chat completion's, is answered by `script(n, request)`; the requests are kept and counted.

    requests, headers, paths: what was asked, how (names of headers in lower case), and where. most_at_once: most
    requests under way together. url: for `judge.base_url`. drip_s: seconds between the bytes of a body, which otherwise
    goes out at once.
    """

    def __init__(self, script: Callable[[int, dict[str, Any]], Answer] = lambda n, request: "Final Score: 1") -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.at_once = self.most_at_once = 0
        self.drip_s = 0.0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = read_request(
                    self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))
                )
                with outer.lock:
                    outer.paths.append(self.path)
                    number = len(outer.requests)
                    outer.requests.append(request)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                try:
                    self.reply(outer.script(number, request))
                finally:
                    with outer.lock:
                        outer.at_once -= 1

            def reply(self, answer: Answer) -> None:
                if answer is None:
                    outer.closing.wait(SILENCE_S)
                    return
                whole = answer if isinstance(answer, tuple) else (200, chat_answer(answer))
                status, text, *more = whole
                body = text if isinstance(text, bytes) else text.encode()
                self.send_response(status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
                for name, value in {**headers, **(more[0] if more else {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who asked has left
                    for place in range(len(body)) if outer.drip_s else ():
                        self.wfile.write(body[place : place + 1])
                        if outer.closing.wait(outer.drip_s):
                            return
                    if not outer.drip_s:
                        self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        """Answer nobody any more."""
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


def read_request(kind: str, body: bytes) -> dict[str, Any]:
    """A JSON object, or the fields of a multipart form."""
    if not kind.startswith("multipart/form-data"):
        return json.loads(body)
    form = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    parts: list[Any] = form.get_payload()  # type: ignore[assignment]
    return {part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True) for part in parts}


def chat_answer(text: str, finish: str = "stop") -> str:
    """The body of a chat completion that says `text`, for 1000 tokens in and 100 out; `finish`: why it ended."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return json.dumps({**head, "choices": [choice], "usage": usage})

"""HTTP policy servers written from public descriptions, without our code: `python -m tests.stranger_server KIND`.

    autoeval    the template of AutoEval's policy servers: json_numpy in and out, `{"encoded": text}` answered by text,
                400 for what is missing, {"detail": words}; POST /reset; GET /health
    list        the same, which AutoEval's client allows to answer by a plain list
    oft         as OpenVLA-OFT's deploy.py answers: a chunk as a list of json_numpy's arrays; "error" where it fails
    oft-twice   the same as text within JSON

The action says what the server saw: the picture's mean, the instruction's length, and the requests since a reset.
"""

from __future__ import annotations

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np

CHUNK = 8


def dump(array: np.ndarray) -> dict[str, Any]:
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode(),
        "dtype": np.lib.format.dtype_to_descr(array.dtype),
        "shape": list(array.shape),
    }


def load(content: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(content["__numpy__"]), content["dtype"]).reshape(content["shape"])


class Server(HTTPServer):
    kind = "autoeval"
    asked = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.answer(200, {"status": "healthy"}) if self.path == "/health" else self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        oft = self.server.kind.startswith("oft")
        if self.path == "/reset" and not oft:
            self.server.asked = 0
            return self.answer(200, {"status": "reset"})
        if self.path != "/act":
            return self.answer(404, {"detail": "Not Found"})
        try:
            return self.act(json.loads(body))
        except (KeyError, ValueError, TypeError) as error:
            return self.answer(200, "error") if oft else self.answer(500, {"detail": str(error)})

    def act(self, payload: dict[str, Any]) -> None:
        twice = set(payload) == {"encoded"}
        payload = json.loads(payload["encoded"]) if twice else payload
        if "image" not in payload or "instruction" not in payload:
            return self.answer(400, {"detail": "Missing required fields: image and instruction"})
        image = load(payload["image"])
        if image.dtype != np.uint8 or image.ndim != 3 or payload["instruction"] == "fail":
            raise ValueError("CUDA out of memory")
        self.server.asked += 1
        action = np.array([image.mean() / 1e4, len(payload["instruction"]) / 1e3, self.server.asked / 1e3, 0, 0, 0, 1])
        if self.server.kind == "list":
            return self.answer(200, action.tolist())
        if self.server.kind.startswith("oft"):
            chunk = [dump(action + np.array([0, 0, 0, k / 1e3, 0, 0, 0])) for k in range(CHUNK)]
            return self.answer(200, json.dumps(chunk) if self.server.kind == "oft-twice" else chunk)
        found = dump(action.astype(np.float32))
        return self.answer(200, json.dumps(found) if twice else found)

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Handler) as server:
        server.kind = sys.argv[1]
        print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()

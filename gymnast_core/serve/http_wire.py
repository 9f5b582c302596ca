"""AutoEval's HTTP interface.

    POST /act     {"image": uint8 (H, W, 3), "instruction": text}  ->  an action (7,), as json_numpy writes arrays
    POST /reset   a new episode of this client
    POST /practise {"instruction"}, GET and DELETE /practise   see `practising.py`
    GET  /health  {"status": "healthy"};  GET /healthz  OK, as openpi's servers answer

With "chunk": true the whole chunk (K, 7) is answered. A body {"encoded": text} is answered by text in JSON. Errors are
{"detail": words}. A client names itself by the header or field `session`, or is known by its connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from gymnast_core.policy.wire_arrays import encode_array
from gymnast_core.serve.access import check_access
from gymnast_core.serve.actor import Actor
from gymnast_core.serve.answering import answered
from gymnast_core.serve.gate import Gate
from gymnast_core.serve.http_body import read_body
from gymnast_core.serve.observation import read_command, read_request, read_session
from gymnast_core.serve.serve_config import ServeConfig
from gymnast_core.serve.sessions import Peer, Session, Sessions


class HttpWire:
    """The routes of one server. token: what clients must send, "" for nothing."""

    def __init__(self, actor: Actor, sessions: Sessions, gate: Gate, config: ServeConfig, token: str) -> None:
        self._actor, self._sessions, self._gate, self._token = actor, sessions, gate, token
        self._max_body, self._seconds = int(config.max_body * 1e6), config.receive_seconds

    def add_to(self, app: FastAPI) -> None:
        """Answer these addresses in `app`."""
        # Plain routes: FastAPI's own read the arguments of a handler from the request, and here there are none.
        app.add_route("/act", self.act, methods=["POST"])
        app.add_route("/reset", self.reset, methods=["POST"])
        for method, what in (("POST", "practise"), ("GET", "progress"), ("DELETE", "cancel")):
            app.add_route("/practise", self._command(what), methods=[method])
        app.add_route("/health", self.health, methods=["GET"])
        app.add_route("/healthz", self.healthz, methods=["GET"])

    async def act(self, request: Request) -> Response:
        """Actions for one observation."""
        return await answered(self._gate, lambda: self._act(request))

    async def reset(self, request: Request) -> Response:
        """A new episode."""
        return await answered(self._gate, lambda: self._reset(request))

    async def health(self, request: Request) -> Response:
        """Whether the server takes requests; asks for no token."""
        if self._gate.closed:
            return JSONResponse({"status": "ending"}, 503)
        return JSONResponse({"status": "healthy"})

    async def healthz(self, request: Request) -> Response:
        """The same in openpi's form."""
        return PlainTextResponse("ending\n", 503) if self._gate.closed else PlainTextResponse("OK\n")

    async def _act(self, request: Request) -> Response:
        check_access(request.headers, self._token)
        observation, twice = read_request(await read_body(request, self._max_body, self._seconds))
        acted = await self._actor.act(self._session(request, observation.session), observation)
        actions = acted.actions if observation.whole else acted.actions[0]
        text = json.dumps(encode_array(actions))
        timing = f"infer;dur={acted.infer_ms:.2f}, total;dur={acted.total_ms:.2f}"
        return Response(json.dumps(text) if twice else text, 200, {"Server-Timing": timing}, "application/json")

    async def _reset(self, request: Request) -> Response:
        check_access(request.headers, self._token)
        await read_body(request, self._max_body, self._seconds)  # nothing is needed in it
        await self._actor.reset(self._session(request, ""))
        return JSONResponse({"status": "reset"})

    def _command(self, what: str) -> Callable[[Request], Any]:
        async def command(request: Request) -> Response:
            return await answered(self._gate, lambda: self._practise(request, what))

        return command

    async def _practise(self, request: Request, what: str) -> Response:
        check_access(request.headers, self._token)
        body = await read_body(request, self._max_body, self._seconds)
        asked = read_command(body, what)
        practising = self._actor.need_practising()
        return JSONResponse(await practising.do(self._session(request, asked.session), asked))

    def _session(self, request: Request, field: str) -> Session:
        """The client: by the field of its body, its header, or its connection. Raises: Refusal."""
        name = field or read_session({"session": request.headers.get("session", "")})
        return self._sessions.find(name, peer_of(request.client), by_host=True)


def peer_of(client: object) -> Peer:
    """Where a connection comes from, of FastAPI's `client`."""
    return (str(getattr(client, "host", "")), int(getattr(client, "port", 0)))

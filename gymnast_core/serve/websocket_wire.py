"""openpi's WebSocket interface.

    the server    metadata, once
    the client    {"observation/image": uint8 (H, W, 3), "prompt": text, "observation/state"?: numbers}
    the server    {"actions": (K, 7), "server_timing": {"infer_ms", "total_ms", "prev_total_ms", "batch"}}

Text from the server says what was wrong with a message; the connection stays open. {"endpoint": "reset"} begins an
episode and is answered by {"status": "reset"}; so does a new connection. With "chunk": false the actions are (1, 7),
the next one of the chunk. {"endpoint": "practise", "instruction"}, "progress" and "cancel": see `practising.py`.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from gymnast_core.policy.wire_msgpack import pack
from gymnast_core.progress import say
from gymnast_core.serve.access import check_access
from gymnast_core.serve.actor import Actor
from gymnast_core.serve.gate import Gate
from gymnast_core.serve.http_wire import peer_of
from gymnast_core.serve.observation import Command, read_message
from gymnast_core.serve.refusal import Refusal
from gymnast_core.serve.serve_config import ServeConfig
from gymnast_core.serve.sessions import Peer, Sessions

BAD_MESSAGE, TOO_LARGE = 1008, 1009
MAX_WRONG = 100
"""A connection is closed after this many refused messages in a row."""


class WebSocketWire:
    """One route, "/", for any number of connections. token: what clients must send, "" for nothing. about: what the
    metadata says beside the form of the answers."""

    def __init__(
        self,
        actor: Actor,
        sessions: Sessions,
        gate: Gate,
        config: ServeConfig,
        token: str,
        about: dict[str, Any],
    ) -> None:
        self._actor, self._sessions, self._gate, self._token = actor, sessions, gate, token
        self._max_body = int(config.max_body * 1e6)
        self._metadata = {**about, "chunk_length": actor.chunk_length, "action_dim": 7, "reset": True}
        self._metadata["practise"] = actor.practising is not None

    def add_to(self, app: FastAPI) -> None:
        """Answer this address in `app`."""
        app.add_api_websocket_route("/", self.talk)

    async def talk(self, socket: WebSocket) -> None:
        """One connection, from its beginning to its end."""
        peer = peer_of(socket.client)
        try:
            check_access(socket.headers, self._token)
            with self._gate.socket():
                await socket.accept()
                await socket.send_bytes(pack(self._metadata))
                await self._answer_all(socket, peer)
        except Refusal as refusal:  # before the handshake
            if "websocket.http.response" in (socket.scope.get("extensions") or {}):
                answer = JSONResponse({"detail": str(refusal)}, refusal.status, refusal.headers)
                await socket.send_denial_response(answer)
            else:
                await socket.close(BAD_MESSAGE, str(refusal)[:120])
        except (WebSocketDisconnect, RuntimeError):  # the client has left, in the midst of it
            return
        finally:
            self._sessions.forget(peer)

    async def _answer_all(self, socket: WebSocket, peer: Peer) -> None:
        """Answer messages until the client leaves. Raises: WebSocketDisconnect, RuntimeError."""
        previous, wrong = 0.0, 0
        while (message := await socket.receive())["type"] == "websocket.receive":
            began = time.perf_counter()
            try:
                with self._gate.request():
                    answer = await self._answer(message, peer)
                    if previous and "server_timing" in answer:
                        answer["server_timing"]["prev_total_ms"] = previous
                    await socket.send_bytes(pack(answer))
                previous, wrong = (time.perf_counter() - began) * 1e3, 0
                continue
            except Refusal as refusal:
                told, status = str(refusal), refusal.status
            except (WebSocketDisconnect, OSError):
                return
            except Exception:
                say(traceback.format_exc(), "red")
                told, status = "the server failed; its own output says why", 500
            wrong += 1
            await socket.send_text(told)
            if status == 413 or wrong >= MAX_WRONG:
                await socket.close(TOO_LARGE if status == 413 else BAD_MESSAGE, told[:120])
                return

    async def _answer(self, message: Any, peer: Peer) -> dict[str, Any]:
        """Raises: Refusal."""
        data = message.get("bytes")
        if data is None:
            raise Refusal(400, "found text, needed msgpack bytes with observation/image and prompt")
        if len(data) > self._max_body:
            raise Refusal(413, f"found {len(data)} bytes, allowed are {self._max_body} (--max-body)")
        asked = read_message(data)
        session = self._sessions.find(asked.session, peer)
        if isinstance(asked, Command):
            if asked.what != "reset":
                return await self._actor.need_practising().do(session, asked)
            await self._actor.reset(session)
            return {"status": "reset"}
        acted = await self._actor.act(session, asked)
        timing = {"infer_ms": acted.infer_ms, "total_ms": acted.total_ms, "batch": acted.rows}
        return {"actions": acted.actions, "server_timing": timing}

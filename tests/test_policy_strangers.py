"""Our client of AutoEval's HTTP interface, against servers in other processes that have nothing of ours; and the mends
on both sides of the wire by which no small message waits for another."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from gymnast_core.errors import DataError
from gymnast_core.policy.load import open_policy
from gymnast_core.policy.remote import RemotePolicy
from gymnast_core.policy.remote_websocket import WebSocketPolicy
from gymnast_core.serve.listener import Listener
from gymnast_core.serve.serve_config import ServeConfig
from tests.serving import frames_of, serving

FRAMES = frames_of(2)
TEXT = "open the drawer"


@pytest.mark.parametrize(("kind", "chunk"), [("autoeval", 1), ("list", 1), ("oft", 8), ("oft-twice", 8)])
def test_a_strangers_server_is_understood_and_quoted(kind: str, chunk: int) -> None:
    with serving(kind, module=("-m", "tests.stranger_server")) as served:
        client = open_policy(served.http)
        assert isinstance(client, RemotePolicy) and client.chunk_length == chunk
        client.restart()  # deploy.py has no /reset, and its 404 is no error
        for asked in (1, 2):
            actions = client.act(FRAMES[:1], [TEXT])
            assert actions.shape == (1, chunk, 7) and actions.dtype == np.float32
            seen = [FRAMES[0].mean() / 1e4, len(TEXT) / 1e3]
            assert actions[0, 0, :2] == pytest.approx(seen, abs=1e-6) and actions[0, 0, 6] == 1.0
            assert np.allclose(actions[0, :, 3], np.arange(chunk) / 1e3)
            if not kind.startswith("oft"):
                assert actions[0, 0, 2] == pytest.approx(asked / 1e3), "/reset begins an episode"
        words = "'error', needed actions" if kind.startswith("oft") else "500, 'CUDA out of memory'"
        with pytest.raises(DataError, match=words):
            client.act(FRAMES[:1], ["fail"])
        assert client.act(FRAMES, [TEXT] * 2).shape == (2, chunk, 7), "the next call goes on"
        client.close()
    with pytest.raises(DataError, match="no policy server answers"):
        client.act(FRAMES[:1], [TEXT])


def no_delay(link: socket.socket | None) -> bool:
    assert link is not None
    return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_no_socket_of_ours_waits_to_fill_a_packet() -> None:
    """Nagle's algorithm would hold each small answer for 40 ms. Only the option is asked for, no time."""
    with serving(module=("-m", "tests.openpi_server")) as served:
        websocket = WebSocketPolicy(served.ws)
        websocket.act(FRAMES[:1], [TEXT])
        assert websocket._link is not None and no_delay(websocket._link.socket)
        websocket.close()
    with serving("list", module=("-m", "tests.stranger_server")) as served:
        http = RemotePolicy(served.http)
        assert no_delay(http._connection.sock)
        http.close()


def test_no_connection_that_our_server_takes_waits_to_fill_a_packet() -> None:
    async def accepted() -> bool:
        with Listener(ServeConfig(port=0)) as listener:
            listener.prepare(FastAPI())
            server: uvicorn.Server = listener._server
            serving_ = asyncio.create_task(server.serve(sockets=[listener._socket]))
            while not server.started:
                await asyncio.sleep(0.01)
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            while not (links := list(server.server_state.connections)):
                await asyncio.sleep(0.01)
            found = no_delay(links[0].transport.get_extra_info("socket"))  # type: ignore[union-attr]
            writer.close()
            server.should_exit = True
            await serving_
        return found

    assert asyncio.run(accepted())

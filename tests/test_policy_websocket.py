"""Our client of openpi's WebSocket interface, against a server in another process that has nothing of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.server import serve

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.policy.load import check_policy, open_policy
from gymnast_core.policy.remote_websocket import WebSocketPolicy
from gymnast_core.protocols import EpisodicPolicy
from gymnast_core.station_file import open_station
from tests import openpi_server
from tests.machine import in_time
from tests.serving import Served, frames_of, serving
from tests.tiny_station import build_tiny_station

FRAMES = frames_of(2)
SERVER = ("-m", "tests.openpi_server")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(module=SERVER) as served:
        yield served
        assert served.process.poll() is None, served.output.read_text()


@pytest.fixture
def client(server: Served) -> Iterator[WebSocketPolicy]:
    made = WebSocketPolicy(server.ws, timeout_s=1.0)
    yield made
    made.close()


def test_a_strangers_policy_acts_and_an_episode_is_a_connection(client: WebSocketPolicy) -> None:
    assert isinstance(client, EpisodicPolicy) and client.chunk_length == 4
    for prompt in ("open", "lists"):
        actions = client.act(FRAMES, [prompt] * 2)
        assert actions.shape == (2, 4, 7) and actions.dtype == np.float32
        assert actions[:, 0, 0] == pytest.approx(FRAMES.mean(axis=(1, 2, 3)) / 255.0, abs=1e-6)
    before = client.metadata["connections"]
    client.act(FRAMES, ["open"] * 2)
    assert client.metadata["connections"] == before, "one connection serves an episode"
    client.restart()
    client.act(FRAMES, ["open"] * 2)
    assert client.metadata["connections"] == before + 1, "a server without a reset learns of an episode so"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("state", "answered \"KeyError: 'observation/state'\""),
        ("six", r"shape \(4, 6\)"),
        ("eight", r"shape \(4, 8\)"),
        ("nan", "found nan at step 0, dimension 0"),
        ("five", "answered 5 actions, needed 4"),
        ("none", "answered fields state, needed actions"),
        ("words", "answered 'out of memory', needed actions"),
        ("objects", r"dtype '\|O' is no number"),
        ("texts", "not an array of actions"),
        ("ragged", "not an array of actions"),
        ("list", "found list, needed a mapping"),
        ("page", r"an HTML page \('Sign in'\)"),
        ("half", "no msgpack message"),
        ("close", "no GPU left"),
        ("hang", "no policy server answers .*timed out"),
        ("drip", "no policy server answers .*timed out"),
    ],
)
def test_a_wrong_answer_is_one_line_and_the_next_call_goes_on(
    client: WebSocketPolicy, prompt: str, message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=message) as caught:
        client.act(FRAMES[:1], [prompt])
    assert in_time(2.5, began)
    assert str(caught.value).startswith("ws://127.0.0.1:") and str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert client.act(FRAMES[:1], ["open"]).shape == (1, 4, 7)


def test_a_server_that_comes_back_is_found_again() -> None:
    with serving(module=SERVER) as served:
        client = WebSocketPolicy(served.ws, timeout_s=5.0)
        client.act(FRAMES, ["open"] * 2)
    with pytest.raises(DataError, match="no policy server answers"):
        client.act(FRAMES, ["open"] * 2)
    with serving(str(served.port), module=SERVER):
        assert client.act(FRAMES, ["open"] * 2).shape == (2, 4, 7)
        client.close()


def test_an_address_that_is_none_is_one_line() -> None:
    for bad in ("ws://", "ws://localhost:99999", "ws://a?b", "wss://name:word@a", "ws://ws://a"):
        with pytest.raises(ConfigError, match="needed ws://host:port/path"):
            open_policy(bad)
    check_policy("ws://127.0.0.1:1")
    with pytest.raises(DataError, match="no policy server answers"):
        open_policy("ws://127.0.0.1:1")


def test_a_token_goes_to_a_server_that_the_user_of_this_process_names_and_to_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GYMNAST_POLICY_TOKEN", "of-this-machine")
    station = open_station(str(build_tiny_station(tmp_path)))
    heard: list[str | None] = []

    def note(link: Any, request: Any) -> None:
        heard.append(request.headers.get("Authorization"))

    with serve(openpi_server.handle, "127.0.0.1", 0, process_request=note, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        for user_names in (False, True):
            policies = StationPolicies(station, user_names)
            assert policies.choose(address).act(FRAMES, ["open"] * 2).shape == (2, 4, 7)
            policies.close()
        server.shutdown()
    with_token = heard.index("Bearer of-this-machine")
    assert with_token > 0 and {*heard[:with_token]} == {None}
    assert {*heard[with_token:]} == {"Bearer of-this-machine"}

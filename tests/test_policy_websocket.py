"""Our client of openpi's WebSocket interface, against a server in another process that has nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy.load import check_policy, open_policy
from gymnast_core.policy.remote_websocket import WebSocketPolicy
from gymnast_core.protocols import EpisodicPolicy
from tests.machine import in_time
from tests.serving import Served, frames_of, serving

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

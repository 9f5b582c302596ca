"""`gymnast serve`, in another process: whoever asks it, over either wire, gets what the policy itself would do."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import requests
from websockets.sync.client import connect

from gymnast_core.config import find_model
from gymnast_core.policy.load import open_policy
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.protocols import EpisodicPolicy
from tests.serving import (
    Served,
    body_of,
    frames_of,
    from_json_numpy,
    from_msgpack_numpy,
    json_numpy,
    msgpack_numpy,
    post,
    serving,
)

INSTRUCTIONS = ("close the drawer", "open the drawer")
STATE = np.zeros(8, np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as served:
        yield served
        assert served.end(10.0) == 0 and "Traceback" not in served.output.read_text()


@pytest.fixture(scope="module")
def policy() -> OpenVLAPolicy:
    return load_policy(find_model("mini/policy"), "station", "cpu")


def chunk(policy: OpenVLAPolicy, frame: np.ndarray, instruction: str = INSTRUCTIONS[0]) -> np.ndarray:
    return policy.act(frame[None], [instruction])[0]


def test_our_clients_get_the_policys_own_chunks_over_both_wires(server: Served, policy: OpenVLAPolicy) -> None:
    frames = frames_of(3)
    texts = [INSTRUCTIONS[i % 2] for i in range(3)]
    expected = policy.act(frames, texts)
    for address in (server.http, server.ws):
        client = open_policy(address)
        assert isinstance(client, EpisodicPolicy) and client.chunk_length == policy.chunk_length
        for _ in range(2):
            assert np.array_equal(client.act(frames, texts), expected)
            client.restart()
        client.close()  # type: ignore[attr-defined]
        assert np.array_equal(client.act(frames[:1], texts[:1]), expected[:1]), "a closed connection is opened again"
        client.close()  # type: ignore[attr-defined]


def test_a_stock_autoeval_client_gets_a_chunk_action_by_action(server: Served, policy: OpenVLAPolicy) -> None:
    frames = frames_of(8, seed=1)
    first, second, last = (chunk(policy, frames[i]) for i in (0, 5, 7))
    expected = [*first, *second[:2]]

    def step(number: int) -> np.ndarray:  # a new connection each time, as AutoEval's client opens it
        body = body_of(frames[number], proprio=json_numpy(STATE))
        answer = requests.post(
            f"{server.http}/act", data=body, headers={"Content-Type": "application/json"}, timeout=60
        )
        assert answer.status_code == 200
        return from_json_numpy(answer.json())

    assert requests.get(f"{server.http}/health", timeout=60).json() == {"status": "healthy"}
    assert requests.post(f"{server.http}/reset", timeout=60).status_code == 200
    for number, action in enumerate(expected):
        assert np.array_equal(step(number), action), number
    assert requests.post(f"{server.http}/reset", timeout=60).status_code == 200
    assert np.array_equal(step(7), last[0]), "a new episode begins with a look"


def test_chunks_and_text_in_text_come_where_they_are_asked_for(server: Served, policy: OpenVLAPolicy) -> None:
    frame = frames_of(1, seed=2)[0]
    expected = chunk(policy, frame)
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    status, answer = post(link, "/act", body_of(frame, chunk=True))
    assert status == 200 and np.array_equal(from_json_numpy(answer), expected)
    twice = json.dumps({"encoded": body_of(frame, chunk=True).decode()}).encode()
    status, answer = post(link, "/act", twice)
    assert status == 200 and isinstance(answer, str)
    assert np.array_equal(from_json_numpy(json.loads(answer)), expected)
    link.close()


def test_clients_of_one_host_step_through_their_own_chunks(server: Served, policy: OpenVLAPolicy) -> None:
    """Told apart by their connections, and by their names over one connection."""
    frames = frames_of(4, seed=3)
    chunks = [chunk(policy, frame) for frame in frames]
    links = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(3)]
    assert post(links[0], "/reset", b"")[0] == 200, "whoever came from this host before was in the midst of a chunk"
    for step in range(3):
        for number, (link, session) in enumerate([(links[0], ""), (links[1], ""), (links[2], "a"), (links[2], "b")]):
            frame = frames[number] if step == 0 else frames_of(1, seed=4)[0]
            named = {"session": session} if session else {}
            status, answer = post(link, "/act", body_of(frame), **named)
            assert status == 200 and np.array_equal(from_json_numpy(answer), chunks[number][step]), (step, number)
    status, answer = post(links[0], "/act", body_of(frames[0], INSTRUCTIONS[1]))
    expected = chunk(policy, frames[0], INSTRUCTIONS[1])
    assert np.array_equal(from_json_numpy(answer), expected[0]), "another task begins with a look"
    for link in links:
        link.close()


def test_a_client_written_from_openpis_description_is_served(server: Served, policy: OpenVLAPolicy) -> None:
    frame = frames_of(1, seed=5)[0]
    with connect(server.ws, compression=None, max_size=None) as link:
        metadata = from_msgpack_numpy(link.recv(timeout=60))
        assert metadata["chunk_length"] == policy.chunk_length and metadata["action_dim"] == 7
        message = {"observation/image": frame, "observation/state": STATE, "prompt": INSTRUCTIONS[0]}
        for round_ in range(2):
            link.send(msgpack_numpy(message))
            answer = from_msgpack_numpy(link.recv(timeout=60))
            assert answer["actions"].shape == (5, 7) and np.array_equal(answer["actions"], chunk(policy, frame))
            assert answer["server_timing"]["infer_ms"] > 0 and ("prev_total_ms" in answer["server_timing"]) == round_
        link.send(msgpack_numpy({**message, "prompt": "qqq ☃"}))
        told = link.recv(timeout=60)
        assert isinstance(told, str) and "Traceback" not in told and "\n" not in told
        link.send(msgpack_numpy({**message, "chunk": False}))
        assert from_msgpack_numpy(link.recv(timeout=60))["actions"].shape == (1, 7)
    assert requests.get(f"{server.http}/healthz", timeout=60).text == "OK\n"


def test_concurrent_clients_share_forwards_and_get_the_same_bits(server: Served, policy: OpenVLAPolicy) -> None:
    clients, rounds = 12, 4
    frames = frames_of(clients * rounds, seed=6).reshape(clients, rounds, 64, 64, 3)
    sizes = [frames_of(rounds, seed=7, size=48), frames_of(rounds, seed=8, size=128)]  # of two further clients
    answers: dict[tuple[int, int], np.ndarray] = {}
    batches: list[int] = []
    together = threading.Barrier(clients + len(sizes))

    def ask(number: int) -> None:
        own = frames[number] if number < clients else sizes[number - clients]
        with connect(server.ws, compression=None) as link:
            link.recv(timeout=60)
            for round_ in range(rounds):
                together.wait(60)
                link.send(msgpack_numpy({"observation/image": own[round_], "prompt": INSTRUCTIONS[number % 2]}))
                answer = from_msgpack_numpy(link.recv(timeout=60))
                answers[number, round_] = answer["actions"]
                batches.append(answer["server_timing"]["batch"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients + len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(threads) * rounds and max(batches) > 1
    for (number, round_), actions in answers.items():
        own = frames[number] if number < clients else sizes[number - clients]
        assert np.array_equal(actions, chunk(policy, own[round_], INSTRUCTIONS[number % 2])), (number, round_)


def test_one_client_that_is_refused_costs_no_other_its_answer(server: Served, policy: OpenVLAPolicy) -> None:
    """The word that the policy cannot spell is found in the forward that others share."""
    frame = frames_of(1, seed=9)[0]
    told: list[object] = []
    together = threading.Barrier(6)

    def ask(number: int) -> None:
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(3):
            together.wait(60)
            text = "fold the ☃" if number == 0 else INSTRUCTIONS[0]
            told.append((number, *post(link, "/act", body_of(frame, text, chunk=True, session=str(number)))))
        link.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = chunk(policy, frame)
    for number, status, answer in told:  # type: ignore[misc]
        if number == 0:
            assert status == 400 and "detail" in answer
        else:
            assert status == 200 and np.array_equal(from_json_numpy(answer), expected)

"""`gymnast serve --practise`, in another process: a client captures, practises and acts by what came of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from gymnast_core.cli import main
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.policy.remote import RemotePolicy
from gymnast_core.policy.remote_websocket import WebSocketPolicy
from gymnast_core.policy.scripted import ScriptedPolicy
from tests.machine import HANG_S, overdue
from tests.policy_server import PolicyServer
from tests.serving import Served, body_of, from_json_numpy, from_msgpack_numpy, msgpack_numpy, post, serving
from tests.tiny_station import INSTRUCTION, build_tiny_station, let_practice_succeed, picture

FRAMES = [picture(seed) for seed in range(4)]
START = FRAMES[0]
GRACE_S = 4.0


def practice_of(served: Served) -> int:
    """The process that practises."""
    (child,) = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    return int(child)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build_tiny_station(tmp_path_factory.mktemp("tiny"))
    let_practice_succeed(path)
    return path.parent


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    words = ("--config", str(folder / "station.yaml"), "--adapters", str(folder / "adapters"))
    words += ("--practise", "--practice-runs", str(folder / "runs"), "--practice-grace", str(GRACE_S))
    with serving(*words) as served:
        yield served
        with connect(served.ws, compression=None) as link:
            link.recv(timeout=HANG_S)
            ask(link, image=START, prompt=INSTRUCTION, capture=True)
            assert ask(link, endpoint="practise", instruction=INSTRUCTION, iterations=1000)["state"] == "running"
        child = practice_of(served)
        assert served.end(20.0) == 0 and not Path(f"/proc/{child}").exists(), "practice ends with the server"
        assert "Traceback" not in served.output.read_text()


@pytest.fixture(scope="module")
def policy(folder: Path) -> OpenVLAPolicy:
    return load_policy(folder / "policy", None, "cpu")


def ask(link: ClientConnection, **content: Any) -> Any:
    """The answer to a message; text where it was refused."""
    renamed = {"image": "observation/image"}
    link.send(msgpack_numpy({renamed.get(name, name): value for name, value in content.items()}))
    answer = link.recv(timeout=HANG_S)
    return answer if isinstance(answer, str) else from_msgpack_numpy(answer)


def ended(link: ClientConnection) -> dict[str, Any]:
    """How this client's practice ended."""
    began = time.monotonic()
    while (now := ask(link, endpoint="progress"))["state"] == "running":
        assert not overdue(120.0, began)
        time.sleep(0.1)
    return dict(now)


def chunks(policy: OpenVLAPolicy) -> np.ndarray:
    return policy.act(np.stack(FRAMES), [INSTRUCTION] * len(FRAMES))


def test_a_client_practises_while_others_act_and_then_acts_by_its_adapter(
    server: Served, policy: OpenVLAPolicy, folder: Path
) -> None:
    base = chunks(policy)
    other = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG_S)
    with connect(server.ws, compression=None) as link:
        assert from_msgpack_numpy(link.recv(timeout=HANG_S))["practise"] is True
        assert "has asked for no practice" in ask(link, endpoint="progress")
        assert "found no picture" in ask(link, endpoint="practise", instruction=INSTRUCTION)
        answer = ask(link, image=START, prompt=INSTRUCTION, capture=True)
        assert np.array_equal(answer["actions"], base[0]), "a picture that is kept is answered as any other"
        begun = ask(link, endpoint="practise", instruction=INSTRUCTION, iterations=6)
        assert begun["state"] == "running"
        for number, frame in enumerate(FRAMES):  # of a stock client, while practice is under way
            status, answer = post(other, "/act", body_of(frame, INSTRUCTION, chunk=True))
            assert status == 200 and np.array_equal(from_json_numpy(answer), base[number])
        assert post(other, "/act", body_of(START, INSTRUCTION, capture=True))[0] == 200
        assert ask(link, endpoint="progress")["state"] == "running", "all of that was answered meanwhile"
        status, told = post(other, "/practise", json.dumps({"instruction": INSTRUCTION}).encode())
        assert status == 409 and "another practice is under way" in told["detail"]
        done = ended(link)
        assert done["state"] == "accepted" and done["success_after"] > done["success_before"], done
        name = done["adapter"]
        adapters.AdapterStore(folder / "adapters").load(policy, name)
        adapters.activate(policy, name)
        adapted = chunks(policy)
        adapters.detach(policy, name)
        assert not np.array_equal(adapted, base)
        for number, frame in enumerate(FRAMES):  # both wires, turn by turn: nobody acts by another's adapter
            assert np.array_equal(ask(link, image=frame, prompt=INSTRUCTION, adapter=name)["actions"], adapted[number])
            status, answer = post(other, "/act", body_of(frame, INSTRUCTION, chunk=True))
            assert np.array_equal(from_json_numpy(answer), base[number])
        steps = [post(other, "/act", body_of(START, INSTRUCTION, **more))[1] for more in ({}, {"adapter": name}, {})]
        taken = [from_json_numpy(step) for step in steps]
        assert all(np.array_equal(a, b) for a, b in zip(taken, (base[0, 0], adapted[0, 0], base[0, 0])))
        assert "adapter: " in ask(link, image=START, prompt=INSTRUCTION, adapter="../adapters")
    other.close()


def test_a_practice_is_cancelled_and_wrong_wishes_are_told(server: Served) -> None:
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG_S)

    def request(method: str, content: Any = None) -> tuple[int, Any]:
        link.request(method, "/practise", None if content is None else json.dumps(content), {"session": "me"})
        answer = link.getresponse()
        return answer.status, json.loads(answer.read())

    assert request("GET")[0] == 404
    assert post(link, "/act", body_of(START, INSTRUCTION, capture=True), session="me")[0] == 200
    for content, words in (
        ({}, "practise: instruction: found nothing"),
        ([], "needed a JSON object"),
        ({"instruction": INSTRUCTION, "iterations": 0}, "iterations: found 0"),
        ({"instruction": INSTRUCTION, "seconds": 61}, "allowed are up to 60"),
        ({"instruction": INSTRUCTION, "position": [0, 0, 9]}, "position.2: found 9"),
        ({"instruction": INSTRUCTION, "run": "/etc"}, "unknown field 'run'"),
        ({"instruction": "open. Out: x"}, "marker"),
    ):
        status, answer = request("POST", content)
        assert status == 400 and words in answer["detail"], answer
    assert post(link, "/act", body_of(START, INSTRUCTION, capture=1))[1]["detail"].startswith("capture: found int")
    assert request("POST", {"instruction": INSTRUCTION, "iterations": 1000})[1]["state"] == "running"
    began = time.monotonic()
    assert request("DELETE")[0] == 200
    while (now := request("GET")[1])["state"] == "running":
        assert not overdue(60.0, began)
        time.sleep(0.1)
    assert (now["state"], now["adapter"]) == ("cancelled", "")
    assert now["message"].startswith("its client cancelled it")
    link.close()


def test_our_clients_practise_over_both_wires_and_a_practice_that_hangs_blocks_nobody(
    server: Served, policy: OpenVLAPolicy, folder: Path
) -> None:
    base = chunks(policy)
    over_http, over_ws = RemotePolicy(server.http), WebSocketPolicy(server.ws)
    hanging = over_http.practise(START, INSTRUCTION, iterations=1000)
    assert hanging.now().state == "running"
    with pytest.raises(DataError, match="another practice is under way"):
        over_ws.practise(START, INSTRUCTION)
    os.kill(practice_of(server), signal.SIGSTOP)  # it hears no SIGINT any more
    assert hanging.cancel().message == "its client cancelled it"
    with pytest.raises(DataError, match=r"its client cancelled it; it did not end within 4 s and was killed"):
        hanging.adapter(0.1)
    practice = over_ws.practise(np.stack(FRAMES), INSTRUCTION, iterations=6)
    over_ws.close()  # a lost connection costs neither pictures nor practice
    told = list(practice.progress(0.2))
    assert {now.state for now in told[:-1]} == {"running"} and told[-1].state == "accepted", told[-1]
    name = practice.adapter()
    adapters.AdapterStore(folder / "adapters").load(policy, name)
    adapters.activate(policy, name)
    adapted = chunks(policy)
    adapters.detach(policy, name)
    assert not np.array_equal(adapted, base)
    for client in (over_http, over_ws):
        for chosen, expected in ((name, adapted), ("", base)):
            client.use_adapter(chosen)
            acted = client.act(np.stack(FRAMES), [INSTRUCTION] * len(FRAMES))
            assert np.allclose(acted, expected, atol=1e-6)
        with pytest.raises(ConfigError, match="which is no adapter's name"):
            client.use_adapter("../x")
        with pytest.raises(ConfigError, match="practise: iterations: found 0"):
            client.practise(START, INSTRUCTION, iterations=0)
        with pytest.raises(DataError, match="found 17 frames, needed 1 to 16"):
            client.practise(np.stack([START] * 17), INSTRUCTION)
        client.use_adapter("missing")
        with pytest.raises(DataError, match="no adapter 'missing'"):
            client.act(START[None], [INSTRUCTION])
        client.close()


def test_a_server_that_knows_no_practice_is_one_line() -> None:
    stock = PolicyServer(ScriptedPolicy(np.zeros((5, 7), np.float32)))
    with serving(module=("-m", "tests.openpi_server")) as openpi:
        for client in (RemotePolicy(stock.address), WebSocketPolicy(openpi.ws)):
            asked = len(stock.frames)
            for deed, given in ((client.practise, (START, INSTRUCTION)), (client.use_adapter, ("x",))):
                with pytest.raises(DataError, match=r"lets no client practise .*; needed `gymnast serve --practise`"):
                    deed(*given)  # type: ignore[operator]
            assert len(stock.frames) == asked, "no picture was sent"
            assert client.act(START[None], ["open"]).shape[2] == 7
            client.close()
    stock.end()


def test_a_server_that_does_not_practise_says_so_and_one_that_cannot_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "script.npz", actions=np.tile(np.float32([0.01, 0, 0, 0, 0, 0, 1]), (50, 1)))
    with serving("--policy", str(tmp_path / "script.npz")) as served:
        link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=HANG_S)
        for more in ({"capture": True}, {"adapter": "x"}):
            status, answer = post(link, "/act", body_of(START, INSTRUCTION, **more))
            assert status == 400 and "runs without --practise" in answer["detail"]
        assert post(link, "/practise", b"{}")[0] == 400
        client = RemotePolicy(served.http)
        with pytest.raises(DataError, match=r"runs without --practise.*needed `gymnast serve --practise`"):
            client.practise(START, INSTRUCTION)
        client.close()
        assert post(link, "/act", body_of(START, INSTRUCTION, capture=False))[0] == 200
        link.close()
    assert main(["serve", "--practise", "--port", "0", "--policy", str(tmp_path / "script.npz")]) == 2
    assert "found a policy that takes no adapters" in capsys.readouterr().err

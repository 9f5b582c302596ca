"""A policy server's token goes to the address that it is for, as long as it is lent, and to nobody else."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.errors import DataError
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.policy.scripted import ScriptedPolicy
from gymnast_core.policy.server_tokens import lend_tokens, lent_token
from gymnast_core.station_file import StationFile, open_station
from tests.policy_server import PolicyServer
from tests.serving import frames_of
from tests.tiny_station import build_tiny_station

FRAME = frames_of(1)
ADDRESSES = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(("http", "https", "ws", "wss")),
    st.sampled_from(("lab", "lab-gpu", "127.0.0.1", "lab.example")),
    st.sampled_from(("", ":80", ":8000", ":8001")),
    st.sampled_from(("", "/", "/a", "/a/b")),
)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GYMNAST_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def servers() -> Iterator[list[PolicyServer]]:
    made = [PolicyServer(ScriptedPolicy(np.zeros((50, 7), np.float32))) for _ in range(3)]
    yield made
    for server in made:
        server.end()


@settings(max_examples=30)
@given(ADDRESSES, ADDRESSES)
def test_a_token_is_lent_for_one_address_and_no_longer_than_the_block(one: str, other: str) -> None:
    assume(one.rstrip("/") != other.rstrip("/"))
    with lend_tokens({one: "of-one"}):
        assert (lent_token(one), lent_token(other)) == ("of-one", "")
        with lend_tokens({other: "of-another"}):
            assert (lent_token(one), lent_token(other)) == ("of-one", "of-another")
        assert lent_token(other) == ""
    assert lent_token(one) == ""


def test_a_killed_commands_token_counts_no_more_and_no_file_that_others_can_read_does(own_state: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with lend_tokens({"ws://a": "of-a-killed-command"}):
            os.write(tell, b"x")
            signal.pause()
    os.read(ready, 1)
    (file,) = (own_state / "policy_tokens").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert lent_token("ws://a") == "of-a-killed-command"
    file.chmod(0o640)
    assert lent_token("ws://a") == ""
    file.chmod(0o600)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert lent_token("ws://a") == "" and not file.exists()


def test_each_server_gets_its_own_token_and_who_asks_next_gets_nothing_by_it(
    tmp_path: Path, servers: list[PolicyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GYMNAST_POLICY_TOKEN", "of-this-process")
    monkeypatch.setenv("LAB", "of-the-station-file")
    opened = open_station(str(build_tiny_station(tmp_path)))
    own, named, stranger = servers
    models = dataclasses.replace(opened.config.models, policy=own.address, policy_token_env={named.address: "LAB"})
    policies = StationPolicies(StationFile(opened.path, dataclasses.replace(opened.config, models=models)))

    def asked(server: PolicyServer) -> set[str | None]:
        server.tokens.clear()
        policies.choose(server.address).act(FRAME, ["open"])
        return set(server.tokens)

    assert asked(own) == {"Bearer of-this-process"}
    assert asked(named) == {"Bearer of-the-station-file"}
    assert asked(stranger) == {None}
    with lend_tokens({stranger.address: "of-a-job"}):
        assert asked(stranger) == {"Bearer of-a-job"} and asked(named) == {"Bearer of-the-station-file"}
        stranger.spoil = lambda actions: b'{"error": "who is of-a-job? or Bearer of-this-process"}'
        with pytest.raises(DataError) as caught:
            policies.choose(stranger.address).act(FRAME, ["open"])
        assert "of-a-job" not in str(caught.value) and "of-this" not in str(caught.value), caught.value
        stranger.spoil = lambda actions: None
    assert asked(stranger) == {None}, "the next one to name it is somebody else"
    policies.close()


def test_trials_send_each_server_the_token_that_is_named_for_it(
    tmp_path: Path, servers: list[PolicyServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONE", "of-the-first")
    monkeypatch.setenv("OTHER", "of-the-second")
    station = build_tiny_station(tmp_path, simulated=True)
    first, second = servers[:2]
    run = tmp_path / "run"
    words = ["trials", str(station), "--policies", *(server.address for server in servers), "--task", "open_drawer"]
    words += ["--trials", "1", "--max-steps", "1", "--run", str(run), "--policy-token-env"]
    for entry, told in (
        (f"{first.address}", "needed ADDRESS=VARIABLE"),
        (f"{first.address}=NOT_SET", "the environment variable NOT_SET is not set"),
        ("http://a=ONE", "found http://a, which no policy here has"),
        ("ftp://a=ONE", "'ftp' is not spoken"),
    ):
        assert main([*words, entry]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1 and "of-the" not in error and not run.exists(), error
    assert main([*words, f"{first.address}=ONE", f"{second.address}/=OTHER"]) == 0
    assert [server.tokens for server in servers] == [{"Bearer of-the-first"}, {"Bearer of-the-second"}, {None}]
    kept = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"of-the-first" not in kept and b"of-the-second" not in kept

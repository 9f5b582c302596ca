"""Models and data sets of the Hugging Face Hub: fetched whole or not at all, and pushed without what would leak."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core import doctor, hub_files
from gymnast_core.cli import main
from gymnast_core.config import find_model
from gymnast_core.errors import ConfigError, HubError
from gymnast_core.hub_names import HubName, parse_hub_name
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.station_file import open_station
from gymnast_core.world_model.dataset import parse_source
from tests.hub_server import TOKEN, Fault, HubServer

WEIGHTS = os.urandom(1) * 300_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback, an empty cache, and no token."""
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # so that a small file comes in several pieces
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has the large storage of Git alone
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub_files.forget()
    with stamina.set_testing(True, attempts=3, cap=True):  # no waiting between attempts
        yield server
    hub_files.forget()
    server.end()


def policy(**more: bytes) -> dict[str, bytes]:
    return {"config.json": b'{"model_type": "openvla"}', "model.safetensors": WEIGHTS, **more}


def left(folder: Path) -> list[str]:
    """Half a file that stayed in the cache."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith((".incomplete", ".tmp"))]


def test_a_model_is_fetched_once_and_only_what_is_read_here(hub: HubServer, tmp_path: Path) -> None:
    code = {"modeling.py": b"raise SystemExit", "old.bin": b"\x80\x02pickle", "sub/more.json": b"{}"}
    repository = hub.put("owner/policy", {**policy(), **code})
    folder = find_model("hf:owner/policy")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *("config.json", "model.safetensors", "sub/more.json")
    }
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not hub.count("modeling.py") and not hub.count("old.bin")
    hub_files.forget()
    first = repository.find("main")
    hub.put("owner/policy", policy(README=b"new"))
    assert find_model(f"hf:owner/policy@{first}") == folder and hub.count("GET /owner/policy/resolve") == 3
    hub_files.forget()
    assert find_model("hf:owner/policy").name == repository.find("main") != first
    assert not hub.tokens


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("GET /api/models", 401), "shows it to nobody without a token (401)"),
        (Fault("GET /api/models", 404), "no such model (404)"),
        (Fault("GET /api/models", 404, {"X-Error-Code": "RevisionNotFound"}), "no such branch, tag or commit"),
        (
            Fault("GET /api/models", 403, {"X-Error-Message": "You are blocked"}),
            "refuses access (403: You are blocked)",
        ),
        (
            Fault("GET /api/models", 429, {"Retry-After": "900"}, 9),
            "too many requests (429) and asks to come back in 900",
        ),
        (Fault("GET /api/models", 503, {}, 9), "the Hub fails (503)"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_leaves_nothing(
    hub: HubServer, tmp_path: Path, fault: Fault, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.put("owner/policy", policy())
    hub.faults = [fault]
    assert main(["hub", "pull", "hf:owner/policy", "--kind", "model", "--out", str(tmp_path / "out")]) == 2
    told = capfd.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: hf:owner/policy: ") and words in told[-1]
    assert not (tmp_path / "out").exists() and "Traceback" not in "".join(told)
    hub.faults = []
    assert main(["hub", "pull", "hf:owner/policy", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == WEIGHTS
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()


def test_a_busy_hub_is_asked_again_and_half_a_file_is_finished(hub: HubServer, tmp_path: Path) -> None:
    hub.put("owner/policy", policy())
    hub.faults = [
        Fault("GET /api/models", 429, {"Retry-After": "0"}),
        Fault("GET /owner/policy/resolve", cut=100_000),
    ]
    hub.repositories["models/owner/policy"].files.pop("config.json")
    folder = find_model("hf:owner/policy")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert any(line.endswith("bytes=65536-") for line in hub.asked), hub.asked
    assert not left(tmp_path)


def test_a_full_disk_leaves_nothing_half_written_and_whole_files_stay(
    hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.put("owner/policy", policy())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        assert main(["hub", "pull", "hf:owner/policy"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capfd.readouterr().err
    assert "free disk space, then run the same command again" in told and "Traceback" not in told
    assert not left(tmp_path) and not list(tmp_path.rglob("model.safetensors"))
    before = hub.count("GET /owner/policy/resolve")
    assert main(["hub", "pull", "hf:owner/policy"]) == 0
    assert hub.count("GET /owner/policy/resolve") == before + 1  # the weights alone


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("owner/policy", policy())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.raises(HubError, match=r"needs 300\.0 kB, and .* has 1\.0 kB free"):
        find_model("hf:owner/policy")
    assert not hub.count("resolve")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.ckpt"])
def test_pickled_weights_are_refused_by_name_and_not_fetched(hub: HubServer, name: str) -> None:
    hub.put("owner/policy", {"config.json": b"{}", name: b"\x80\x02"})
    with pytest.raises(HubError, match=rf"{name}, which may hold a pickle.*needed weights as \.safetensors"):
        find_model("hf:owner/policy")
    assert not hub.count("resolve")


def test_offline_the_cache_is_used_and_the_hub_is_not_asked(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.put("owner/policy", policy())
    folder = find_model("hf:owner/policy")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_files.forget()
    assert find_model("hf:owner/policy") == folder
    with pytest.raises(HubError, match="offline mode is on"):
        find_model("hf:owner/other")
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_files.forget()
    hub.faults = [Fault("GET /api", 502, times=9)]
    assert find_model("hf:owner/policy") == folder
    assert "the Hub answers 502; commit" in capfd.readouterr().err
    shutil.rmtree(folder)  # as a fetch that was killed leaves it: the listing without the files
    hub_files.forget()
    with pytest.raises(HubError, match="502"):
        find_model("hf:owner/policy")


def test_a_goal_or_a_job_makes_the_machine_fetch_nothing(hub: HubServer) -> None:
    hub.put("owner/policy", policy())
    station = open_station("simulated_drawer")
    with pytest.raises(HubError, match="nothing is fetched for a goal or a job"):
        StationPolicies(station).check("hf:owner/policy")
    named = open_station("simulated_drawer", "hf:owner/policy")
    assert "gymnast hub pull hf:owner/policy" in doctor.check_models(named.portable(), named.path).detail
    assert not hub.asked
    StationPolicies(station, user_names=True).check("hf:owner/policy")
    hub_files.forget()
    StationPolicies(station).check("hf:owner/policy")


def test_a_wrong_token_is_not_shown_and_only_that_of_the_environment_is_sent(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.put("owner/secret", policy(), private=True)
    (tmp_path / "token").write_text("hf_of_another_program_123456")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for token in ("", "hf_" + "wrong" * 6, TOKEN):
        monkeypatch.setenv("HF_TOKEN", token)
        hub.tokens.clear()
        assert main(["hub", "pull", "hf:owner/secret"]) == (0 if token == TOKEN else 2)
        assert hub.tokens == ({f"Bearer {token}"} if token else set())
        told = capfd.readouterr()
        assert not token or token not in told.out + told.err
    monkeypatch.setenv("HF_TOKEN", "zwölf")
    with pytest.raises(ConfigError, match="HF_TOKEN: holds a character"):
        find_model("hf:owner/other")


NAMES = st.lists(st.from_regex(r"\A[A-Za-z0-9]([._-]?[A-Za-z0-9]){0,8}\Z"), min_size=2, max_size=2).map("/".join)


@settings(max_examples=30)
@given(NAMES, st.sampled_from(["", "main", "v3.0", "refs/pr/1", "0123abc"]))
def test_names_come_back(repository: str, revision: str) -> None:
    name = HubName(repository, revision)
    assert parse_hub_name(str(name)) == name
    for text, weight in ((str(name), 1.0), (f"hf:{repository}@main@0.5", 0.5)):
        folder, found = parse_source(text)
        assert found == weight and parse_hub_name(folder).repository == repository


@given(st.text(max_size=30))
def test_what_is_no_name_is_refused_on_one_line_and_leads_nowhere(text: str) -> None:
    try:
        name = parse_hub_name(f"hf:{text}")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert ".." not in str(name) and not name.revision.startswith("/")

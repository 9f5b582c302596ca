"""Models and data sets of the Hugging Face Hub: fetched whole or not at all, and pushed without what would leak."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import stamina
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gymnast_core import doctor, hub_files
from gymnast_core.cli import main
from gymnast_core.config import PACKAGE_ROOT, dump_config, find_model
from gymnast_core.data.episode import Episode, write_episode
from gymnast_core.data.formats import find_all
from gymnast_core.errors import ConfigError, HubError
from gymnast_core.estimates import success_rate
from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.evaluation.labelling import Labelling
from gymnast_core.evaluation.policy_config import EvaluatePolicyConfig
from gymnast_core.files import write_bytes, write_json
from gymnast_core.hub.leaks import find_leaks
from gymnast_core.hub_names import HubName, parse_hub_name
from gymnast_core.plain_yaml import parse_yaml
from gymnast_core.policy.adapter_state import Evidence, read_evidence, write_evidence
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.station_file import open_station
from gymnast_core.world_model.checkpoint import load_world_model
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


def test_a_killed_fetch_shows_nothing_and_the_same_command_goes_on(hub: HubServer, tmp_path: Path) -> None:
    hold = threading.Event()
    hub.put("owner/policy", {"model.safetensors": WEIGHTS})
    hub.faults = [Fault("GET /owner/policy/resolve", times=9, cut=70_000, hold=hold)]
    words = ["hub", "pull", "hf:owner/policy", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "gymnast_core.cli", *words], env={**os.environ, "HF_HUB_DISABLE_XET": "1"}
    )
    while not hub.count("GET /owner/policy/resolve"):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    hold.set()
    hub.faults = []
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("model.safetensors"))
    assert main(words) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == WEIGHTS


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
    hub.end()
    with pytest.raises(HubError, match=f"hf:owner/policy: cannot reach {hub.address} "):
        find_model("hf:owner/policy")


def test_a_goal_a_job_or_a_file_makes_the_machine_fetch_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.put("owner/policy", policy())
    folder = Path(shutil.copytree(PACKAGE_ROOT / "weights/mini/second_world_model", tmp_path / "model"))
    edit("config.json", autoencoder="hf:owner/policy")(folder)
    with pytest.raises(HubError, match="nothing is fetched for"):
        load_world_model(folder)
    station = open_station("simulated_drawer")
    with pytest.raises(HubError, match="nothing is fetched for a goal, a job or a file"):
        StationPolicies(station).check("hf:owner/policy")
    named = open_station("simulated_drawer", "hf:owner/policy")
    assert named.portable().models.policy == "hf:owner/policy"
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


@pytest.fixture
def things(tmp_path: Path) -> dict[str, Path]:
    """Folders to push: a data set, a policy, a world model and an adapter, small ones."""
    pytest.importorskip("pyarrow")
    shipped = PACKAGE_ROOT / "weights" / "mini"
    names = {"policy": "policy", "world_model": "second_world_model"}
    found = {thing: Path(shutil.copytree(shipped / name, tmp_path / thing)) for thing, name in names.items()}
    found["adapter"] = tmp_path / "adapters" / "lab_open_1"
    found["adapter"].mkdir(parents=True)
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, found["adapter"] / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "target_modules": ["x"]}
    about["base_model_name_or_path"] = "/home/somebody/runs/policy"
    write_json(found["adapter"] / "adapter_config.json", about)
    record = {"name": "lab_open_1", "base": "fc26", "rank": 2, "alpha": 4.0, "modules": ["x"], "station": "lab"}
    write_json(found["adapter"] / "adapter.json", {**record, "task": "open", "metrics": {"success_after": 0.75}})
    trials = CanaryResult("lab_open_1", "open", "better", "confirmed", "7 of 8", 8, 0, 2, 7, 30.0, 0.1, (0.0, 0.0))
    write_evidence(found["adapter"], Evidence("confirmed", True, "7 of 8", dataclasses.asdict(trials)))
    found["dataset"] = Path(shutil.copytree(Path(__file__).parent / "goldens/lerobot/v3.0", tmp_path / "dataset"))
    return found


def push(*words: object) -> int:
    return main(["hub", "push", *map(str, words), "--license", "apache-2.0"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("thing", ["dataset", "policy", "world_model", "adapter"])
def test_what_is_pushed_comes_back_with_a_card(
    hub: HubServer, things: dict[str, Path], thing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = things[thing]
    assert push(folder, "--to", "hf:owner/thing", "--dry-run") == 0
    assert not hub.asked
    assert push(folder, "--to", "hf:owner/thing", "--base", "owner/base") == 0
    (repository,) = hub.repositories.values()
    assert repository.private and hub.tokens == {f"Bearer {TOKEN}"}
    files = dict(repository.files)
    card = parse_yaml(files.pop("README.md").decode().split("---")[1])
    assert card["license"] == "apache-2.0" and {"robotics", "gymnast"} <= set(card["tags"])
    assert (b"Success was not measured." in repository.files["README.md"]) == (thing == "policy")
    if thing == "dataset":
        assert repository.tags == {"v3.0": repository.find("main")} and "LeRobot" in card["tags"]
    else:
        assert card["base_model"] == "owner/base"
    assert main(["hub", "pull", "hf:owner/thing", "--out", str(tmp_path / "back")]) == 0
    back = contents(tmp_path / "back")
    lowered = {"evidence.json", "adapter_config.json", "README.md"}
    same = {name for name in files if name not in lowered}
    assert {name: back[name] for name in same} == {name: contents(folder)[name] for name in same}
    sent = hub.count("PUT /lfs")
    assert push(folder, "--to", "hf:owner/thing", "--base", "owner/base") == 0  # nothing is sent twice
    assert hub.count("PUT /lfs") == sent
    if thing == "dataset":
        assert len(find_all("hf:owner/thing@v3.0")) == len(find_all(folder)) > 0
        with pytest.raises(ConfigError, match="hub pull hf:owner/thing --out FOLDER"):
            Labelling(["hf:owner/thing"])
    if thing == "adapter":
        text = repository.files["README.md"].decode()
        assert "| success of the adapter | open | on station lab, from the same resets | 0.88 | 0.53 to 0.98 |" in text
        assert "| base | owner/base |" in text and "Success on other robots" in text
        assert "Success on a station" not in text
        (folder / "evidence.json").unlink()
        assert push(folder, "--to", "hf:owner/thing") == 0
        assert b"Success on a station, simulated or real, was not measured." in repository.files["README.md"]
        assert "evidence.json" not in repository.files  # of the earlier push
        assert b"somebody" not in b"".join(repository.files.values())
        assert read_evidence(tmp_path / "back").words == "imagined, ungated"  # another robot confirmed it
        assert AdapterStore(tmp_path).read("back").task == "open"


def test_a_push_that_is_cut_leaves_the_repository_as_it_was_and_goes_on(
    hub: HubServer, things: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (things["world_model"], "--to", "hf:owner/model")
    assert push(*words) == 2
    assert "HF_TOKEN: found none" in capfd.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 6)
    assert push(*words) == 2
    assert "hf:owner/model: the Hub refuses HF_TOKEN (401" in capfd.readouterr().err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(*words) == 0
    (repository,) = hub.repositories.values()
    before = dict(repository.files)
    (things["world_model"] / "weights.safetensors").write_bytes(_changed(things["world_model"] / "weights.safetensors"))
    hub.faults = [Fault("/commit/main", 403)]
    assert push(*words) == 2
    assert repository.files == before
    sent = hub.count("PUT /lfs")
    hub.faults = [Fault("/commit/main", 429, {"Retry-After": "0"})]
    assert push(*words) == 0
    assert repository.files != before and hub.count("PUT /lfs") == sent
    repository.private = False
    assert push(*words) == 2
    assert "everybody sees this repository" in capfd.readouterr().err


def _changed(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return bytes(content)


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    """Changes of a JSON file of a folder."""
    return lambda folder: write_json(folder / name, {**json.loads((folder / name).read_text()), **changes})


SECRET = "sk-" + "abcdefgh12345678"


@pytest.mark.parametrize(
    ("thing", "change", "words"),
    [
        (
            "policy",
            edit("config.json", cache="/home/somebody/cache"),
            "cache: found a path of this machine",
        ),
        (
            "policy",
            edit("config.json", notes=f"key {SECRET}"),
            "notes: a secret stands there",
        ),
        ("policy", edit("config.json", api_key="12345"), "api_key: a secret stands there"),
        ("policy", edit("config.json", contact="me@example.org"), "found an e-mail address"),
        (
            "policy",
            edit("config.json", operator="Ada Lovelace"),
            "the name of a person ('Ada Lovelace')",
        ),
        ("world_model", edit("config.json", autoencoder="sd3:/mnt/models/sd3"), "autoencoder: found a path"),
        ("dataset", edit("meta/info.json", codebase_version="v2.1"), "gymnast data convert"),
        (
            "policy",
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pytorch_model.bin",
        ),
        ("policy", lambda folder: (folder / "config.json").unlink(), "needed a policy, an adapter, a world model"),
    ],
)
def test_a_push_refuses_what_would_leak_before_anything_is_sent(
    hub: HubServer,
    things: dict[str, Path],
    thing: str,
    change: Callable[[Path], object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    change(things[thing])
    assert push(things[thing], "--to", "hf:owner/thing") == 2
    told = capfd.readouterr()
    assert words in told.err and SECRET not in told.err + told.out and "Traceback" not in told.err
    assert not hub.asked


def test_a_run_is_on_the_card_of_what_it_measured_and_of_nothing_else(
    things: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = EvaluatePolicyConfig(run=str(run), policy=str(things["policy"]))
    write_bytes(run / "config.yaml", dump_config(config).encode())
    write_json(run / "result.json", {"open|it": vars(success_rate([1.0] * 9 + [0.0])), "all": vars(success_rate([]))})
    words = ("--to", "hf:owner/thing", "--dry-run", "--measured")
    assert push(things["policy"], *words, run) == 0
    card = capfd.readouterr().out
    assert r"| success | open\|it | on the simulated station | 0.90 | 0.60 to 0.98 | 10 trials |" in card
    assert "| all tasks | on the simulated station | not judged | not known | 0 trials |" in card
    assert "Success was not measured" not in card
    capfd.readouterr()
    (run / "config.yaml").write_text("policy: mini/policy\n")
    assert push(things["policy"], *words, run) == 2
    assert "found figures of 'mini/policy'; needed those of" in capfd.readouterr().err
    trials = CanaryResult("other", "open", "better", "confirmed", "", 8, 0, 2, 7, 30.0, 0.1, (0.0, 0.0))
    write_json(run / "result.json", dataclasses.asdict(trials))
    assert push(things["adapter"], *words, run) == 2
    assert "found figures of other; needed those of lab_open_1" in capfd.readouterr().err


def test_a_recorded_data_set_goes_without_folders_and_without_its_operator(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, more in (("named", {"operator": "Ada"}), ("plain", {})):
        told = {"station_file": "/home/ada/lab.yaml", "policy": "expert", **more}
        frames, still = np.zeros((3, 32, 32, 3), np.uint8), np.zeros((2, 7), np.float32)
        stamps = 1_764_000_000_000_000_000 + np.arange(3) * 200_000_000
        episode = Episode("open", frames, still, still, np.zeros((3, 7), np.float32), stamps, True, True, told)
        write_episode(tmp_path / name / "one", episode)
        words = ["--to", "lerobot", "--out", str(tmp_path / f"{name}_set"), "--workers", "1"]
        assert main(["data", "convert", str(tmp_path / name), *words]) == 0
    capfd.readouterr()
    assert push(tmp_path / "named_set", "--to", "hf:owner/set") == 2
    assert "file-000.parquet: gymnast.metadata.operator: found the name of a person ('Ada')" in capfd.readouterr().err
    assert push(tmp_path / "plain_set", "--to", "hf:owner/set") == 0
    assert b"/home/ada" not in b"".join(hub.repositories["datasets/owner/set"].files.values())
    (mine,), (theirs,) = find_all(tmp_path / "plain_set"), find_all("hf:owner/set")
    assert theirs.describe().metadata == {**mine.describe().metadata, "station_file": "lab.yaml"}
    assert np.array_equal(theirs.read().frames, mine.read().frames) and theirs.outcome().success


PLAIN = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.from_regex(r"\A[a-z]{0,8}\Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"\A[b-d]{1,3}\Z"), inner, max_size=3),
    max_leaves=8,
)
LEAKS = ("/home/ada/x.yaml", "see /mnt/disk/run 3", "C:\\Users\\ada\\x", "~/runs/x", "ada@example.org", SECRET)


@settings(max_examples=40)
@given(PLAIN, st.sampled_from(LEAKS), st.sampled_from([".json", ".jsonl", ".md", ".safetensors"]))
def test_a_leak_is_found_wherever_it_stands_and_nothing_else_is(value: object, leak: str, suffix: str) -> None:
    def packed(inner: object) -> bytes:
        if suffix != ".safetensors":
            return json.dumps({"b": inner, "text": json.dumps([inner])}).encode()
        head = json.dumps({"__metadata__": {"b": json.dumps(inner)}}).encode()
        return len(head).to_bytes(8, "little") + head

    assert list(find_leaks(f"x{suffix}", packed(value))) == []
    found = list(find_leaks(f"x{suffix}", packed([value, leak])))
    assert found and all(line.startswith(f"x{suffix}: ") and SECRET not in line for line in found)

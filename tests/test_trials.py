"""`gymnast trials` on the simulated station: killed, it goes on; a dead server ends it in words; days are compared."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from gymnast_core.cli import main
from gymnast_core.data.outcome import ABORTED
from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.comparison import ComparisonResult, read_tried
from gymnast_core.evaluation.session import TRIALS_LOG, read_records
from gymnast_core.evaluation.trials_compare import RunsResult
from gymnast_core.files import read_json
from gymnast_core.policy import adapters
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.policy.openvla import load_policy
from gymnast_core.policy.remote import TOKEN_VARIABLE
from gymnast_core.results import read_result
from gymnast_core.station_file import open_station
from tests.machine import HANG_S
from tests.options import in_place
from tests.policy_server import PolicyServer
from tests.processes import ROOT
from tests.tiny_station import build_tiny_station

STEPS = 2


class Still:
    """A policy that waits."""

    chunk_length = 1

    def act(self, frames: np.ndarray, instructions: Any) -> np.ndarray:
        return np.tile(np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32), (len(frames), 1, 1))


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build_tiny_station(tmp_path_factory.mktemp("tiny"), simulated=True)
    policy = load_policy(path.parent / "policy")
    adapters.attach(policy, "x", rank=2)
    adapters.AdapterStore(path.parent / "adapters").save(policy, "x", "newer")
    np.savez(path.parent / "push.npz", actions=np.tile(np.float32([0.01, 0, 0, 0, 0, 0, 1]), (9, 1)))
    return path


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    made = PolicyServer(Still())  # type: ignore[arg-type]
    yield made
    made.end()


def words(station: Path, run: Path, *policies: str, trials: int = 2) -> list[str]:
    return [
        "trials", str(station), "--policies", *policies, "--task", "open_drawer", "--trials", str(trials),
        "--max-steps", str(STEPS), "--run", str(run),
    ]  # fmt: skip


def test_policies_of_every_kind_are_tried_from_the_same_resets_and_the_page_shows_failures_first(
    station: Path, server: PolicyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "of-this-machine")
    names = ("base", "newer", str(station.parent / "push.npz"), str(station.parent / "policy"), server.address)
    run = tmp_path / "run"
    assert main(words(station, run, *names)) == 0
    result = read_result(ComparisonResult, run)
    assert result.success and result.policies == names and result.done == 10
    assert [rate.trials for rate in result.rates] == [2] * 5 and len(result.gaps) == 4
    tried = read_tried(run)
    seeds = {name: [one.record.seed for one in tried if one.policy == name] for name in names}
    assert len({tuple(found) for found in seeds.values()}) == 1 and server.frames, "from the same resets"
    assert server.tokens == {"Bearer of-this-machine"}, "the user named this server himself"
    assert result.weights["base"] == result.weights[names[3]] and result.weights["newer"].startswith(
        result.weights["base"]
    )
    page = (run / "report.html").read_text()
    assert page.index("Failures, faults and unjudged trials") < page.index("Every trial")
    assert page.count("data:image/jpeg") == 10 and "95 % interval" in page
    assert main(words(station, run, *names)) == 0 and len(read_records(run)) == 10, "an ended run tries nothing again"
    assert main(words(station, run, *names, trials=3)) == 0 and len(read_records(run)) == 15, "and can be made longer"


def test_trials_killed_in_the_middle_of_one_go_on_without_losing_or_repeating_any(
    station: Path, server: PolicyServer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = words(station, run, "base", server.address, trials=3)
    child = subprocess.Popen([sys.executable, "-m", "gymnast_core.cli", *line], cwd=ROOT, stderr=subprocess.PIPE)
    asked: list[int] = []

    def kill_in_the_second_trial() -> None:
        asked.append(1)
        if len(asked) == 2 + STEPS:  # the first answer is a test of the connection
            os.kill(child.pid, signal.SIGKILL)

    server.before = kill_in_the_second_trial
    _, told = child.communicate(timeout=HANG_S)
    assert child.returncode == -signal.SIGKILL, told.decode()
    before = (run / TRIALS_LOG).read_text().splitlines()
    assert 1 <= len(before) < 6 and not (run / "result.json").exists()
    server.before = lambda: None
    assert main(line) == 0
    after = (run / TRIALS_LOG).read_text().splitlines()
    assert after[: len(before)] == before and [json.loads(one)["trial"] for one in after] == list(range(6))
    assert read_result(ComparisonResult, run).success


def test_a_server_that_dies_ends_its_trials_in_words_and_they_go_on_when_it_is_back(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = PolicyServer(Still())  # type: ignore[arg-type]
    port = server.server_port
    server.spoil = lambda actions: b"<html>not now</html>" if len(server.frames) > 1 else None
    run = tmp_path / "run"
    line = words(station, run, "base", server.address, trials=6)
    assert main(line) == 1
    result = read_result(ComparisonResult, run)
    assert not result.success and "fault: 3 trials of http://127.0.0.1" in result.stopped_by
    assert "not now" in result.stopped_by and "not now" in (run / "report.html").read_text()
    records = read_records(run)
    assert sum(one.outcome == ABORTED for one in records) == 3
    server.end()
    capsys.readouterr()
    assert main(line) == 2 and "no policy server answers" in capsys.readouterr().err
    again = PolicyServer(Still(), port)  # type: ignore[arg-type]
    try:
        assert main(line) == 0
    finally:
        again.end()
    result = read_result(ComparisonResult, run)
    assert result.done == 12 and result.rates[1].uncounted == 3 and read_records(run)[: len(records)] == records


def test_a_limit_of_time_ends_the_trials_and_the_next_call_goes_on(station: Path, tmp_path: Path) -> None:
    line = words(station, tmp_path / "run", "base", "newer", trials=2)
    assert main([*line, "--seconds", "0.000001"]) == 1
    assert read_result(ComparisonResult, tmp_path / "run").stopped_by.startswith("time: ")
    assert main(line) == 0 and read_result(ComparisonResult, tmp_path / "run").done == 4


def test_ctrl_c_in_a_trial_leaves_a_page_of_the_trials_before_it(
    station: Path, server: PolicyServer, tmp_path: Path
) -> None:
    line = words(station, tmp_path / "run", server.address, trials=3)
    interrupts = {2 + STEPS}  # in the second trial; the first answer is a test of the connection
    server.before = lambda: os.kill(os.getpid(), signal.SIGINT) if len(server.frames) in interrupts else None
    assert main(line) == 130
    result = read_result(ComparisonResult, tmp_path / "run")
    assert (result.done, result.stopped_by) == (1, "interrupted in trial 2 of 3") and not result.success
    assert "interrupted in trial 2 of 3" in (tmp_path / "run" / "report.html").read_text()
    interrupts.clear()
    assert main(line) == 0 and read_result(ComparisonResult, tmp_path / "run").success


def test_what_cannot_be_tried_is_one_line_and_leaves_no_folder(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for names, more, told in (
        (("base", "base"), (), "policies: found 'base' twice; name each once"),
        (("base", "missing"), (), "no adapter 'missing'; present: newer"),
        (("base", "./missing"), (), "model './missing' not found"),
        (("http://127.0.0.1:9",), (), "no policy server answers"),
        (("look-ahead:missing",), (), "no adapter 'missing'; present: newer"),
        (("look-ahead:./missing",), (), "model './missing' not found"),
        (("look-ahead-0:base",), (), "found 0 candidates in 'look-ahead-0:base', allowed are 1 to 1024"),
        (("look-ahead-x:base",), (), "found 'look-ahead-x:base'; needed look-ahead:NAME"),
        (("look-ahead:ws://a",), (), "a policy server cannot sample candidates"),
        (("look-ahead:practise",), (), "behind look-ahead: stands 'base'"),
        (("practise",), (), "policies: found practise, which needs a station over ROS"),
        (("base",), ("--stop-when-clear",), "stop_when_clear: found one policy, needed two or more"),
        (("base",), ("--task", "fly"), "unknown task 'fly'; station 'tiny' has: close_drawer, open_drawer"),
    ):
        assert main(in_place(words(station, run, *names), more)) == 2
        error = capsys.readouterr().err
        assert told in error and "Traceback" not in error and not run.exists(), error


def test_a_run_goes_on_only_under_its_own_conditions(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(words(station, run, "base", trials=1)) == 0
    assert main([*words(station, run, "base", trials=1), "--seed", "3"]) == 2
    assert "holds a run with seed 0, found 3" in capsys.readouterr().err
    conditions = read_json(run / "conditions.json")
    del conditions["settings"]["safety.max_drift"]  # as a version wrote that had no such field
    (run / "conditions.json").write_text(json.dumps(conditions))
    assert main(words(station, run, "base", trials=1)) == 0
    content = yaml.safe_load(station.read_text())
    content["safety"]["max_drift"] = 0.05
    other = station.with_name("other.yaml")
    other.write_text(yaml.safe_dump(content))
    moved = words(other, run, "base", trials=2)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "config": str(other)}))
    assert main(moved) == 2
    assert "safety.max_drift: 0.1 then, 0.05 now; choose another --run" in capsys.readouterr().err


def test_trials_of_two_days_are_compared_with_what_differed(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(station, tmp_path / "monday", "base", "newer")) == 0
    folder = tmp_path / "changed"
    changed = build_tiny_station(folder, simulated=True)
    content = yaml.safe_load(changed.read_text())
    content["camera"]["observation_size"] = 32
    changed.write_text(yaml.safe_dump(content))
    weights = folder / "policy" / "model.safetensors"
    save_file({name: value + 0.01 * torch.ones_like(value) for name, value in load_file(weights).items()}, weights)
    assert main(words(changed, tmp_path / "friday", "base", trials=3)) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["trials", "compare", str(tmp_path / "monday"), str(tmp_path / "friday"), "--out", str(out)]) == 0
    result = read_result(RunsResult, out)
    (gap,) = result.gaps
    assert (gap.policy, gap.run, gap.paired, gap.resets) == ("base", "friday", True, 2)
    changes = {change.what: change for change in result.changes["friday"]}
    assert changes["camera.observation_size"].second == "32" and "weights of base" in changes
    page = (out / "report.html").read_text()
    assert "camera.observation_size" in page and "mean of the first frames" in page
    assert "camera.observation_size: 48 then, 32 now" in capsys.readouterr().err
    assert main(["trials", "compare", str(tmp_path / "monday"), str(station.parent)]) == 2
    assert "holds no trials" in capsys.readouterr().err
    assert read_json(tmp_path / "monday" / "conditions.json")["where"] == "here"


def test_policies_that_others_name_do_not_fill_the_memory(station: Path) -> None:
    opened = open_station(str(station))
    for user_names, most in ((False, 2), (True, 4)):
        policies = StationPolicies(opened, user_names)
        policies.choose("base")
        scripts = []
        for number in range(4):
            path = station.parent / f"script_{number}.npz"
            np.savez(path, actions=np.tile(np.float32([0.01, 0, 0, 0, 0, 0, 1]), (9, 1)))
            scripts.append(weakref.ref(policies.choose(str(path))))
        gc.collect()
        assert [script() is not None for script in scripts] == [False] * (4 - most) + [True] * most


def test_a_file_that_is_no_policy_is_not_quoted(station: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("my diary")
    with pytest.raises(CheckpointError) as caught:
        StationPolicies(open_station(str(station))).choose(str(tmp_path / "private"))
    assert "a text file" in str(caught.value) and "diary" not in str(caught.value)


def test_the_adapter_asked_for_longest_ago_leaves_the_memory_first(tmp_path: Path) -> None:
    path = build_tiny_station(tmp_path)
    policy, store = load_policy(path.parent / "policy"), adapters.AdapterStore(tmp_path / "adapters")
    for name in ("own", "z", "a", "m"):
        adapters.attach(policy, name, rank=2)
        store.save(policy, name, name)
        if name != "own":
            adapters.detach(policy, name)
    kept = adapters.KeptAdapters(policy, store, "own", most=2)
    for name, present in (("z", "z"), ("a", "az"), ("z", "az"), ("own", "az"), ("m", "mz"), ("a", "am")):
        kept.bring(name)
        assert [other for other in adapters.attached(policy) if other != "own"] == list(present), name
        assert kept.has("own")
    with pytest.raises(CheckpointError, match="no adapter 'missing'"):
        kept.bring("missing")
    assert kept.has("a") and kept.has("m")

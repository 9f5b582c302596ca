"""Rounds of practice: what a canary finds teaches the models, the gate is measured anew, and nothing is done twice."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.config import PACKAGE_ROOT, StationConfig, load_config
from gymnast_core.data.episode import read_header
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.policy.adapter_state import read_evidence
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.results import read_result, write_result
from gymnast_core.reward.classifier import load_classifier, taught_by
from gymnast_core.reward.train import train_judge
from gymnast_core.reward.train_config import JudgeTrainConfig
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.workflows.learn_config import GENTLY
from gymnast_core.workflows.learn_data import held_out_resets
from gymnast_core.workflows.learn_result import Learned
from gymnast_core.workflows.learned_station import open_round
from gymnast_core.workflows.room import TrialRoom
from gymnast_core.workflows.rounds import PractiseResult, RoundRecord, goes_on, result_of
from gymnast_core.world_model.fidelity import fingerprint, read_fidelity
from gymnast_core.world_model.finetune import settle
from gymnast_core.world_model.finetune_config import SHARE, FinetuneConfig
from tests.machine import HANG_S
from tests.processes import wait_for
from tests.tiny_station import build_tiny_station, let_practice_succeed

ALMOST_CLOSED = {"joints": {"drawer": [0.005, 0.025]}, "success": {"joint": "drawer", "below": 0.015}}
"""About half of the resets of this task have succeeded already, whoever acts: no adapter is clearly better."""


def record(number: int, state: str) -> RoundRecord:
    canary = None
    if state in ("confirmed", "rolled back", "kept"):
        kept = "imagined" if state == "kept" else state
        canary = CanaryResult("a", "close", "worse", kept, f"adapter a is {kept}", 5, 0, 3, 0, 0.1, 30.0, (0.0, 0.0))
    adapter = "" if state == "refused" else f"adapter_{number}"
    return RoundRecord(number, f"station_{number}.yaml", adapter, "said", 0.2, 0.9, 64, 5, "measured", canary=canary)


@given(st.lists(st.sampled_from(("confirmed", "rolled back", "kept", "refused", "no canary")), max_size=14))
def test_a_round_follows_a_roll_back_alone_and_there_are_never_more_than_were_allowed(states: list[str]) -> None:
    for rounds in (0, 1, 3, 10):
        done: list[RoundRecord] = []
        for number, state in enumerate(states):
            if done and not goes_on(done, rounds):
                break
            done.append(record(number, state))
        assert len(done) <= rounds + 1 and all(one.rolled_back for one in done[:-1])
        if not done:
            assert not goes_on(done, rounds)
            continue
        result = result_of("s", "close", "close it", rounds, done)
        assert bool(result.adapter) == (states[len(done) - 1] in ("confirmed", "kept", "no canary"))
        assert ("disk full" in result_of("s", "c", "c", rounds, done, "disk full").message) == (not result.adapter)
        assert result.adapter in ("", done[-1].adapter) and result.station_file == done[-1].station


@given(st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=40), st.data())
def test_what_taught_once_never_measures_later(resets: set[str], data: st.DataObject) -> None:
    first = data.draw(st.sets(st.sampled_from(sorted(resets)), min_size=2))
    held, later = held_out_resets(sorted(first), 0.3), held_out_resets(sorted(resets), 0.3)
    assert held and held != first and later and later != resets
    if len(held) < len(first) - 1:  # a last one has to teach, wherever it belongs
        assert not (later & first) - held


def sections(file: Path, **values: dict[str, object]) -> None:
    content = yaml.safe_load(file.read_text())
    for name, own in values.items():
        content[name] = {**content.get(name, {}), **own}
    file.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated station whose canary rolls every adapter back, since trials are few and nobody is clearly better."""
    file = build_tiny_station(tmp_path_factory.mktemp("tiny"), simulated=True)
    scene = yaml.safe_load((PACKAGE_ROOT / "simulation" / "scenes" / "drawer.yaml").read_text())
    scene["model"] = str(PACKAGE_ROOT / "simulation" / "scenes" / "drawer.xml")
    scene["tasks"]["close_drawer"] = ALMOST_CLOSED
    (file.parent / "scene.yaml").write_text(yaml.safe_dump(scene))
    let_practice_succeed(file)
    sections(
        file,
        simulation={"scene": str(file.parent / "scene.yaml")},
        canary={"trials": 3, "other_trials": 2},
        adaptation={"rehearsal": "off", "evaluation_rollouts": 64, "iterations": 6},
        practise={
            "world_model_steps": 10,
            "world_model_learning_rate": 0.002,
            "world_model_batch": 2,
            "judge_steps": 3,
            "measuring_trials": 2,
        },
    )
    return file


def comparable(result: PractiseResult) -> list[dict[str, object]]:
    """What two runs with the same settings have in common: all but names, folders and the clock."""
    found = []
    for one in result.rounds:
        kept = ("verdict", "state", "pairs", "base_successes", "adapter_successes", "trials")
        figures = [getattr(one.canary, name) for name in kept if one.canary is not None]
        learned = one.learned and dataclasses.replace(one.learned, station="", seconds={})
        plain = dataclasses.replace(
            one, station="", adapter="", message="", gate="", canary=None, learned=learned, seconds={}
        )
        found.append({"canary": figures, **dataclasses.asdict(plain)})
    return found


def test_a_roll_back_teaches_the_models_and_a_killed_run_comes_to_the_same(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["practise", "--task", "close_drawer", "--config", str(station), "--rounds", "1", "--frames", "2"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    command = [sys.executable, "-m", "gymnast_core.cli", *words, "--run", str(cut)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(lambda: (cut / "rounds" / "0" / "learn" / "world_model" / "finished.json").exists(), 200.0, process)
    process.kill()
    process.communicate(timeout=HANG_S)
    done = {path: path.read_bytes() for path in cut.rglob("trials.jsonl")}
    trained = (cut / "rounds" / "0" / "learn" / "world_model" / "model" / "weights.safetensors").stat().st_mtime_ns
    assert len(done) == 4
    assert main([*words, "--run", str(cut)]) == 1, "the base acts, and the exit code says so"
    said = capsys.readouterr().err
    assert {path: path.read_bytes() for path in done} == done, "a trial was repeated"
    learned_in = cut / "rounds" / "0" / "learn"
    assert (learned_in / "world_model" / "model" / "weights.safetensors").stat().st_mtime_ns == trained

    assert main([*words, "--run", str(whole)]) == 1
    result = read_result(PractiseResult, cut)
    assert comparable(read_result(PractiseResult, whole)) == comparable(result)
    first, second = result.rounds
    assert first.rolled_back and second.state in ("", "rolled back") and result.adapter == ""
    command_on = f"next: gymnast practise --task close_drawer --config {station} --rounds 2 --frames 2"
    named = said.splitlines()[-1].startswith(command_on)
    assert named == second.rolled_back, "the one command that goes on is named where there is something to learn from"
    learned = first.learned
    assert learned is not None and second.learned is None and second.station == learned.station
    assert set(learned.models) == {"world_model", "judge"} and learned.episodes + learned.held_out == 10

    own, new = open_station(str(station)), open_station(learned.station)
    assert open_round(own, learned.station).config == new.config, "a round's station file is one that a node takes"
    assert fingerprint(own.world_model_folder) != fingerprint(new.world_model_folder)
    assert new.config.models.policy == own.config.models.policy and new.config.practise == own.config.practise
    measured = read_fidelity(new.world_model_folder)
    assert measured is not None and measured.weights == fingerprint(new.world_model_folder)
    assert measured.data == (str(learned_in / "data" / "measure"), str(cut / "measuring" / "episodes"))
    assert measured.replay["all"].episodes == learned.held_out + 4, "with two trials of the base at each task"
    assert learned.after["all"].agreement == measured.replay["all"].agreement
    assert f"agreement {measured.replay['all'].agreement:.2f}" in second.gate and "never measured" in first.gate
    assert read_fidelity(own.world_model_folder) is None, "what was measured of the model as it was lies elsewhere"

    teach, measure = (sorted((learned_in / "data" / side).iterdir()) for side in ("teach", "measure"))
    resets = [{read_header(path)["metadata"]["seed"] for path in side} for side in (teach, measure)]
    assert len(teach) == learned.episodes and len(measure) == learned.held_out and not resets[0] & resets[1]
    judge = Path(new.config.judge.checkpoint)
    assert load_classifier(judge).config == load_classifier(own.config.judge.checkpoint).config
    assert len(taught_by(judge)) >= learned.episodes - 1
    page = (cut / "report.html").read_text()
    assert all(words in page for words in ("What was learned from round 0", "Round 1", "rolled the adapter back"))


def test_a_world_model_that_learned_worse_is_kept_as_it_was_but_measured_anew(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("logs", "0"), ("more", "50")):
        words = ["data", "collect", "--config", str(station), "--policy", "random", "--episodes", "3", "--workers", "1"]
        assert main([*words, "--out", name, "--first-seed", seed, "--horizon", "4"]) == 0
    file = tmp_path / "own.yaml"
    file.write_text(station.read_text())
    sections(file, practise={"judge_steps": 0})
    words = ["learn", "--config", str(file), "--data", "logs", "--measure", "more", "--run", "learned"]
    assert main(words) == 0 and "to practise with the new models: --config" in capsys.readouterr().err
    learned = read_result(Learned, "learned")
    assert learned.models == ("world_model",) and learned.before != learned.after
    assert (learned.episodes, learned.held_out) in ((1, 2), (2, 1))

    folder = tmp_path / "learned"
    (folder / "result.json").unlink()  # as if it had been killed before its end, and the model had been a good one
    before = folder / "before" / "evaluate" / "result.json"
    figures = json.loads(before.read_text())
    before.write_text(json.dumps({**figures, **{name: 99.0 for name in figures if name.startswith("psnr_")}}))
    assert main(words) == 0
    kept = read_result(Learned, "learned")
    assert kept.models == () and kept.after == kept.before == learned.before
    assert any(text.startswith("world_model: kept as it was, since its pictures") for text in kept.skipped)
    own, new = open_station(str(file)), open_station(kept.station)
    assert fingerprint(new.world_model_folder) == fingerprint(own.world_model_folder)
    anew = read_fidelity(new.world_model_folder)
    assert anew is not None and anew.replay["all"].episodes == kept.held_out + 3
    assert read_fidelity(own.world_model_folder) is None
    (folder / "station.yaml").unlink()
    assert main(words) == 0 and read_result(Learned, "learned") == kept
    assert open_station(kept.station).config == new.config, "the station file is written again"
    words[words.index("logs")] = "more"
    assert main(words) == 2 and "holds a run with data ('logs',), found ('more',)" in capsys.readouterr().err
    words[words.index("more")] = "logs"
    sections(file, practise={"held_out": 0.5})
    assert main(words) == 2 and "holds a run with held_out 0.3, found 0.5" in capsys.readouterr().err

    # What lies in another folder is not touched, and what measures does not teach.
    lies = sorted(path for path in (tmp_path / "logs").rglob("*") if path.is_file())
    assert main(["learn", "--config", str(file), "--data", "logs", "--run", "logs"]) == 2
    assert "which holds other files" in capsys.readouterr().err
    assert sorted(path for path in (tmp_path / "logs").rglob("*") if path.is_file()) == lies
    assert main(["learn", "--config", str(file), "--data", "logs", "--measure", "logs", "--run", "new"]) == 2
    assert "an outcome of 0 resets" in capsys.readouterr().err


def test_a_second_round_learns_at_the_rate_of_the_first() -> None:
    first = FinetuneConfig(data=("logs",), init="mini/world_model", share=GENTLY, steps=10)
    rate = settle(first).learning_rate
    assert replace(first, learning_rate=rate).full_learning_rate == pytest.approx(rate / GENTLY)
    assert rate == pytest.approx(GENTLY / SHARE * settle(replace(first, share=SHARE)).learning_rate)


def test_the_robots_word_is_kept_beside_the_adapter_whatever_a_kill_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / "a"
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text("{}")
    (tmp_path / "run").mkdir()
    found = record(0, "rolled back").canary
    assert found is not None
    write_result(tmp_path / "run", found)  # and then it was killed, before it wrote the evidence
    store, room = AdapterStore(tmp_path / "adapters"), cast(Any, None)
    read = TrialRoom.canary(room, store, "a", "close", "0", tmp_path / "run", lambda doing: None)
    assert read == found and read_evidence(folder).state == "rolled back"
    with pytest.raises(DataError, match="holds the canary trials of a, found b"):
        TrialRoom.canary(room, store, "b", "close", "0", tmp_path / "run", lambda doing: None)


def test_one_episode_is_enough_to_teach_a_judge(station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data", "collect", "--config", str(station), "--policy", "expert", "--episodes", "1", "--workers", "1"]
    assert main([*words, "--out", "logs"]) == 0
    options = JudgeTrainConfig(data=("logs",), out="judge", run="run", steps=2, held_out=0.0, size=32)
    assert train_judge(options) == 0 and load_classifier("judge").config.instructions


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rounds": 11}, "practise.rounds: found 11; Input should be less than or equal to 10"),
        ({"rounds": True}, "practise.rounds: found True; needed a number alone"),
        ({"held_out": 0.0}, "practise.held_out: found 0.0"),
        ({"judge_learning_rate": 0}, "practise.judge_learning_rate: found 0"),
        ({"steps": 3}, "unknown field 'practise.steps'"),
    ],
)
def test_a_practise_section_that_cannot_be_is_one_line(
    station: Path, tmp_path: Path, values: dict[str, object], expected: str
) -> None:
    file = tmp_path / "station.yaml"
    file.write_text(station.read_text())
    sections(file, practise=values)
    with pytest.raises(ConfigError, match=r"station\.yaml") as caught:
        load_config(StationConfig, file)
    assert expected in str(caught.value)


def test_what_cannot_be_practised_is_refused_before_anything_is_done(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "other.yaml"
    file.write_text(station.read_text())
    sections(file, practise={"old_data": ["nowhere@2"]})

    def refusal(*words: str) -> str:
        assert main([*words, "--run", "run"]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    practise = ("practise", "--task", "close_drawer", "--config")
    assert "practise.old_data: found 'nowhere', needed an existing folder" in refusal(*practise, str(file))
    assert "unknown task 'fly'" in refusal("practise", "--task", "fly", "--config", str(station))
    assert "on a real station use the action `Practise`" in refusal(
        "practise", "--task", "open_drawer", "--config", "bridge_widowx"
    )
    assert "no such folder of episodes" in refusal("learn", "--config", str(station), "--data", "nowhere")
    sections(file, practise={"old_data": []}, safety={"max_translation": 0.01})
    own = StationFile(station, load_config(StationConfig, station))
    with pytest.raises(ConfigError, match=r"other.yaml: section 'safety' differs from .*station.yaml"):
        open_round(own, str(file))

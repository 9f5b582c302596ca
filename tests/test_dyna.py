"""Rounds of `gymnast dyna`: broken logs teach nothing, only what is better is used, and a kill changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import read_header
from gymnast_core.errors import ConfigError
from gymnast_core.results import read_record, read_result
from gymnast_core.station_file import open_station
from gymnast_core.workflows.dyna_config import DynaOptions
from gymnast_core.workflows.dyna_data import Filter, link_episodes
from gymnast_core.workflows.dyna_practice import RoundPractice, teaching_folder
from gymnast_core.workflows.dyna_result import DynaResult
from gymnast_core.workflows.learn_data import MEASURE, TEACH, Division, Side, find_resets, held_out_resets
from gymnast_core.workflows.learn_result import GateFigures, JudgeFigures, Learned, Pictures
from gymnast_core.workflows.learn_verdict import worse_judge, worse_world_model
from gymnast_core.workflows.lineage import (
    Artefact,
    Lineage,
    given_by,
    learned_in,
    merged,
    read_lineages,
    tree,
    write_lineage,
)
from gymnast_core.workflows.robot_trials import RobotTrials
from tests.machine import HANG_S
from tests.processes import wait_for
from tests.tiny_station import build_tiny_station, let_practice_succeed


@settings(max_examples=40)
@given(st.lists(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=12), min_size=2, max_size=5))
def test_a_reset_stays_on_its_side_in_every_later_round(rounds: list[set[str]]) -> None:
    sides: dict[str, Side] = {}
    for resets in rounds:
        known = {reset: sides[reset] for reset in resets if reset in sides}
        held = held_out_resets(sorted(resets), 0.3, known)
        now: dict[str, Side] = {reset: MEASURE if reset in held else TEACH for reset in resets}
        assert all(now[reset] == side for reset, side in known.items())
        if len(known) < len(resets) - 1:
            assert set(now.values()) == {MEASURE, TEACH}
        sides |= now


def test_only_what_is_better_is_used() -> None:
    good, bad = Pictures({"1": 30.0, "5": 25.0}, 1.4), Pictures({"1": 29.0, "5": 25.0}, 1.4)
    gate = GateFigures(0.8, 0.05, 20, 0.1, 0.05, 20)
    assert worse_world_model(bad, good, gate, gate) == ""
    assert "became worse (27.5 -> 27.0 dB)" in worse_world_model(good, bad, gate, gate)
    assert "no better" in worse_world_model(good, good, gate, gate)
    within, below = dataclasses.replace(gate, agreement=0.74), dataclasses.replace(gate, agreement=0.6)
    assert worse_world_model(bad, good, gate, within) == ""
    assert "less often (0.80 -> 0.60" in worse_world_model(bad, good, gate, below)
    assert "bias grew (+0.10 -> -0.30" in worse_world_model(bad, good, gate, dataclasses.replace(gate, bias=-0.3))
    assert "ignores actions now" in worse_world_model(bad, dataclasses.replace(good, action_shuffle=1.05), gate, gate)
    few = dataclasses.replace(gate, agreement=0.0, bias=1.0, episodes=7, loop_episodes=7)
    assert worse_world_model(bad, good, gate, few) == "", "seven episodes refuse nothing"
    assert worse_world_model(Pictures({"1": 20.0}), Pictures({"1": 21.0}), GateFigures(), GateFigures()) == ""
    assert worse_judge(JudgeFigures(0.9, 0.03, 20), JudgeFigures(0.88, 0.03, 20)) == ""
    assert "less often" in worse_judge(JudgeFigures(0.9, 0.03, 20), JudgeFigures(0.6, 0.03, 20))
    assert "no verdict" in worse_judge(JudgeFigures(0.9, 0.03, 20), JudgeFigures(None, None, 0))


def test_the_tree_goes_on_from_one_run_to_the_next(tmp_path: Path) -> None:
    first = Artefact("world_model_1", "world_model", "a", "given")
    second = Artefact("world_model_2", "world_model", "b", "used", ("world_model_1",), 0, {"pictures": "1 dB -> 2 dB"})
    adapter = Artefact("x", "adapter", "x", "confirmed", ("policy_1", "world_model_2"), 0)
    third = Artefact("world_model_3", "world_model", "c", "refused", ("world_model_2",), 1, why="it is worse")
    again = dataclasses.replace(second, state="given", parents=(), round=None, figures={})
    policy = Artefact("policy_1", "policy", "p", "given")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_lineage(tmp_path / "one", Lineage("s", "two", (again, third)))
    write_lineage(tmp_path / "two", Lineage("s", "one", (policy, first, second, adapter)))
    lines = list(tree(merged(read_lineages([tmp_path]))))
    assert lines == [
        "policy_1 (given)",
        "└─ x (confirmed, round 0) [with world_model_2]",
        "world_model_1 (given)",
        "└─ world_model_2 (used, round 0): pictures 1 dB -> 2 dB",
        "   └─ world_model_3 (refused, round 1): it is worse",
    ]
    loop = {
        one.name: one
        for one in (Artefact("a", "judge", "", "used", ("b",)), Artefact("b", "judge", "", "used", ("a",)))
    }
    assert len(list(tree(loop))) == 2


def test_a_judge_stands_below_the_one_before_and_beside_the_imagination_that_taught_it(
    station: Path, tmp_path: Path
) -> None:
    given_names = {one.kind: one.name for one in given_by(open_station(str(station)))}
    for kind in ("world_model", "judge"):
        (tmp_path / kind).mkdir()
        shutil.copytree(station.parent / kind, tmp_path / kind / "model")
        weights = next((tmp_path / kind / "model").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes() + b" ")
    figures = JudgeFigures(0.5, 0.1, 8), JudgeFigures(0.9, 0.1, 8)
    learned = Learned("s", 4, 2, 2, ("judge",), {}, {}, {"judge": figures[0]}, {"judge": figures[1]})
    learned = dataclasses.replace(learned, refused={"world_model": "it is worse"})
    model, judge = learned_in(3, tmp_path, learned, given_names)
    assert (model.state, model.why, model.parents) == ("refused", "it is worse", (given_names["world_model"],))
    assert (judge.state, judge.round, judge.parents) == ("used", 3, (given_names["judge"], model.name))
    assert judge.figures == {"held-out": f"{figures[0]} -> {figures[1]}"}
    assert len({model.name, judge.name, *given_names.values()}) == 5


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = build_tiny_station(tmp_path_factory.mktemp("tiny"), simulated=True)
    let_practice_succeed(file)
    content = yaml.safe_load(file.read_text())
    content["adaptation"] |= {"iterations": 1}
    content["practise"] = {
        "world_model_learning_rate": 0.002,
        "world_model_batch": 2,
        "judge_steps": 0,  # what judges learn is seen in test_rounds.py
        "measuring_trials": 0,
    }
    content["canary"] = {"other_trials": 0}
    content["dyna"] = {"trajectories": 6, "world_model_steps": 6}
    file.write_text(yaml.safe_dump(content))
    return file


def comparable(result: DynaResult) -> list[dict[str, object]]:
    """What two runs with the same settings have in common: all but names, folders and the clock."""
    found = []
    for one in result.rounds:
        practices = [(p.imagined_before, p.imagined_after, p.state, p.updates) for p in one.practices.values()]
        learned = dataclasses.replace(one.learned, station="", seconds={}, skipped=())
        names = [Path(path).name for path in one.data.chosen]
        found.append({"data": names, "practices": practices, **dataclasses.asdict(learned)})
    return found


def test_rounds_use_what_is_better_and_a_killed_run_comes_to_the_same(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    collect = ["data", "collect", "--config", str(station), "--policy", "random", "--workers", "1"]
    collect += ["--tasks", "close_drawer", "--episodes", "4", "--horizon", "4"]
    assert main([*collect, "--out", "logs/first"]) == 0
    episodes = sorted(path.parent for path in (tmp_path / "logs").rglob("episode.json"))
    (episodes[0] / "frames" / "000001.png").write_bytes(b"broken")
    words = ["dyna", "--config", str(station), "--logs", "logs", "--tasks", "close_drawer", "--then"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    command = [sys.executable, "-m", "gymnast_core.cli", *words, "nothing", "--run", str(cut)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    trained = cut / "rounds" / "0" / "learn" / "world_model" / "finished.json"
    wait_for(trained.exists, 200.0, process)
    process.kill()
    process.communicate(timeout=HANG_S)
    before = trained.stat().st_mtime_ns
    code = main([*words, "nothing", "--run", str(cut)])
    assert main([*words, "nothing", "--run", str(whole)]) == code
    assert trained.stat().st_mtime_ns == before, "a finished step was repeated"
    assert comparable(read_result(DynaResult, whole)) == comparable(read_result(DynaResult, cut))
    assert main([*words, "nothing", "--run", str(cut), "--more"]) == code
    assert len(read_result(DynaResult, cut).rounds) == 1, "nothing is learned where nothing is new"

    assert main([*collect, "--out", "logs/second", "--first-seed", "50"]) == 0
    practise = [*words, "practise", "--frames", "2", "--trials", "1", "--more"]
    assert main([*practise, "--run", str(cut)]) in (0, 1)
    result = read_result(DynaResult, cut)
    first, second = result.rounds
    assert (
        second.data.new == 4 and set(second.practices) == {"close_drawer"} and second.practices["close_drawer"].updates
    )
    assert second.practices["close_drawer"].station == second.learned.station

    # One training over all tasks, and the robot's word on its adapter; a finished one is read.
    own, used = open_station(str(station)), open_station(result.station_file)
    teach, trials = teaching_folder(cut / "rounds" / "1" / "learn"), RobotTrials(own, "seeds")
    options = DynaOptions(config=str(station), tasks=("close_drawer",), trials=1)
    practice = RoundPractice(options, cut / "rounds" / "1", 1, used, trials, teach, lambda doing: None)
    record = practice.train(1)
    assert record.adapter and record.canary is not None and record.canary.pairs == 1 and record.updates == 1
    episodes_of_trials = sorted((cut / "rounds" / "1" / "train" / "episodes").iterdir())
    assert len(episodes_of_trials) == 2 and practice.train(1).canary == record.canary
    assert code == int(not first.better)
    assert [(Path(one.episode).name, one.why.split(":")[0]) for one in first.data.left_out] == [
        (episodes[0].name, "frame_unreadable")
    ]
    assert first.data.new == len(first.data.chosen) == len(episodes) - 1
    assert first.learned.episodes + first.learned.held_out == len(first.data.chosen)
    page = (cut / "report.html").read_text()
    assert str(episodes[0]) in page and "frame_unreadable" in page and "action-shuffle ratio" in page
    divisions = [
        read_record(Division, cut / "rounds" / str(one.number) / "learn" / "division.json").sides
        for one in result.rounds
    ]
    assert all(divisions[0].items() <= sides.items() for sides in divisions)
    taught = {
        path.resolve(): read_header(path)["metadata"]["seed"]
        for path in (cut / "rounds" / "0" / "learn" / "data" / "teach").iterdir()
    }
    assert len(taught) == first.learned.episodes and episodes[0].resolve() not in taught

    (lineage,) = read_lineages([cut])
    made = {one.kind: one for one in lineage.artefacts if one.round == 0}
    given_names = {one.kind: one.name for one in lineage.artefacts if one.state == "given"}
    assert made["world_model"].parents == (given_names["world_model"],)
    assert made["world_model"].state == ("used" if "world_model" in first.learned.models else "refused")
    assert "dB -> " in made["world_model"].figures["pictures"] and "agreement" in made["world_model"].figures["gate"]
    assert used.config.models.policy == open_station(str(station)).config.models.policy
    capsys.readouterr()
    assert main(["dyna", "status", str(cut)]) == 0
    shown = capsys.readouterr().out
    assert all(one.name in shown for one in lineage.artefacts) and f"└─ {made['world_model'].name}" in shown
    assert main(["dyna", "status", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2

    assert main([*words, "nothing", "--run", str(cut), "--seed", "1"]) == 2
    assert "holds a run with seed 0, found 1" in capsys.readouterr().err


def test_episodes_of_one_data_set_are_divided_like_others_and_keep_their_side_under_another_number(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    collect = ["data", "collect", "--config", str(station), "--policy", "random", "--workers", "1", "--out", "logs"]
    assert main([*collect, "--tasks", "close_drawer", "--episodes", "3", "--horizon", "3"]) == 0
    for header in (tmp_path / "logs").rglob("*.json"):  # as where a person resets the scene
        content = json.loads(header.read_text())
        content["metadata"].pop("seed", None)
        header.write_text(json.dumps(content))
    assert main(["data", "convert", "logs", "--to", "lerobot", "--out", "set"]) == 0
    found = Filter(tmp_path, lambda doing: None).gather(("set",), 100, ())
    assert found.new == len(found.chosen) == 3 and not found.left_out
    every, fewer = (
        set(find_resets((str(link_episodes(paths, tmp_path / "links")),))) for paths in (found.chosen, found.chosen[1:])
    )
    assert len(every) == 3 and len(fewer) == 2 and fewer < every


def test_what_cannot_be_is_refused_in_one_line(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()

    def refusal(*words: str) -> str:
        assert main(["dyna", "--config", str(station), "--run", "run", *words]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "logs: found 'nowhere', needed an existing folder" in refusal("--logs", "nowhere")
    assert "unknown task 'fly'" in refusal("--logs", "empty", "--tasks", "fly")
    assert "old_data: found 'old', needed an existing folder" in refusal("--logs", "empty", "--old-data", "old@2")
    assert "empty: no whole episode with a known outcome" in refusal("--logs", "empty")
    assert main(["dyna", "status", "empty"]) == 2 and "no lineage.json" in capsys.readouterr().err

    file = tmp_path / "station.yaml"
    content = yaml.safe_load(station.read_text())
    for value, schedule in (("nightly", "nightly"), (False, "off"), ({"rounds": 3}, "off")):
        file.write_text(yaml.safe_dump({**content, "dyna": value}))
        assert load_config(StationConfig, file).dyna.schedule == schedule
    for wrong, said in (
        ("weekly", "dyna: found 'weekly'; Input should be 'off' or 'nightly'"),
        ({"night": [20, 25]}, "dyna.night.1: found 25"),
    ):
        file.write_text(yaml.safe_dump({**content, "dyna": wrong}))
        with pytest.raises(ConfigError, match=said):
            load_config(StationConfig, file)

"""Rounds of practice over the real graph: a canary rolls an adapter back, models learn, the next round uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gymnast_core.results import read_result
from gymnast_core.station_file import open_station
from gymnast_core.workflows.rounds import PractiseResult
from gymnast_core.world_model.fidelity import fingerprint, read_fidelity
from gymnast_nodes.client import Station
from tests.machine import HANG_S
from tests.ros_tools import running_station
from tests.tiny_station import build_tiny_station, let_practice_succeed, put_on_graph


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Station]]:
    path = build_tiny_station(tmp_path_factory.mktemp("station"), simulated=True)
    let_practice_succeed(path)
    put_on_graph(
        path,
        adaptation={"rehearsal": "off", "evaluation_rollouts": 64, "iterations": 6},
        canary={"trials": 2, "other_trials": 0},
        practise={"rounds": 1, "world_model_steps": 2, "world_model_batch": 2, "judge_steps": 2, "measuring_trials": 1},
    )
    content = yaml.safe_load(path.read_text())
    content["tasks"]["open_drawer"]["max_steps"] = 3
    path.write_text(yaml.safe_dump(content))
    with running_station(path) as (_, _, station):
        yield path, station


def test_a_roll_back_over_ros_is_followed_by_a_round_with_models_that_have_learned(
    running: tuple[Path, Station],
) -> None:
    path, station = running
    phases: list[str] = []
    task = station.practise(
        "open the drawer", "open_drawer", reset=True, execute=False, seed=2,
        on_feedback=lambda feedback: phases.append(feedback.phase),
    )  # fmt: skip
    result = task.result(HANG_S)
    assert task.status == "succeeded" and result.success, result.message
    seen = list(dict.fromkeys(phases))
    assert seen.index("canary") < seen.index("learn") and "load" in phases[phases.index("learn") :]
    (run,) = (path.parent / "practise").iterdir()
    found = read_result(PractiseResult, run)
    first, second = found.rounds
    assert first.rolled_back and first.learned is not None and second.station == first.learned.station
    assert first.learned.episodes + first.learned.held_out == 4, "the canary's episodes, as the recorder logged them"
    assert second.gate.startswith("agreement ") and first.gate.startswith("not measured")
    own, new = open_station(str(path)), open_station(second.station)
    figures = read_fidelity(new.world_model_folder)
    assert figures is not None and figures.weights == fingerprint(new.world_model_folder)
    assert figures.weights != fingerprint(own.world_model_folder)
    assert (run / "report.html").is_file()

    content = yaml.safe_load(Path(second.station).read_text())
    content["safety"]["max_translation"] = 0.2
    other = path.parent / "other.yaml"
    other.write_text(yaml.safe_dump(content))
    refused = station.adapt("open the drawer", station_file=str(other))
    assert "section 'safety' differs from" in refused.result(HANG_S).message and refused.status == "aborted"

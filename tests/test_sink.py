"""The sink scene: an eggplant that friction alone holds, places it belongs in, and an expert that puts it there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gymnast_core.config import SimulationConfig, StationConfig, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.protocols import Start
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.expert import ExpertPolicy
from gymnast_core.simulation.scene import SCENES
from gymnast_core.simulation.segmentation import Segmenter
from gymnast_core.simulation.simulator import SimulatedStation

CONFIG = load_config(StationConfig, Path(__file__).resolve().parent.parent / "robot_configs" / "simulated_sink.yaml")
TASKS = sorted(CONFIG.tasks)
SEEDS = 6


@pytest.fixture(scope="module")
def environment() -> StationEnvironment:
    return StationEnvironment(CONFIG)


def start(task: str, seed: int) -> Start:
    return Start(CONFIG.tasks[task].instruction, None, task, seed)


def act_until_done(environment: StationEnvironment, task: str, seed: int) -> list[tuple[float, bool, np.ndarray]]:
    """Credit, whether the gripper holds the eggplant and where it is, after each step of the expert until success."""
    expert = ExpertPolicy(environment)
    frames = environment.reset([start(task, seed)])
    expert.begin(seed)
    station, seen = environment.station(), []
    for _ in range(CONFIG.tasks[task].max_steps):
        environment._active[0].step(expert.act(frames, [CONFIG.tasks[task].instruction])[0, 0])
        view = station.view
        seen.append((station.credit(task), view.is_held("eggplant"), view.body_pose("eggplant")[:3, 3]))
        if station.success(task):
            break
    return seen


@pytest.mark.parametrize("task", TASKS)
def test_a_reset_starts_the_task_undone_and_doing_nothing_fails(environment: StationEnvironment, task: str) -> None:
    other = next(name for name in TASKS if name != task)
    places = set()
    for seed in range(SEEDS):
        environment.reset([start(task, seed)])
        station = environment.station()
        assert not station.success(task) and station.success(other) and station.credit(task) == 0.0
        places.add(tuple(np.round(station.view.body_pose("eggplant")[:2, 3], 5)))
    assert len(places) == SEEDS, "every seed has its own place"
    before = station.view.body_pose("eggplant")[:3, 3]
    still = np.tile(np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32), (1, 10, 1))
    result = environment.step(still)
    assert not result.success.any() and environment.facts() == [{}]
    assert np.abs(station.view.body_pose("eggplant")[:3, 3] - before).max() < 0.004, "what lies there stays there"


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_carries_the_eggplant_to_its_place(environment: StationEnvironment, task: str) -> None:
    for seed in range(SEEDS):
        seen = act_until_done(environment, task, seed)
        credits, held, places = [[step[k] for step in seen] for k in range(3)]
        assert credits[-1] == 1.0 and not held[-1], f"seed {seed}: {credits[-1]}"
        assert max(credits[:-1]) < 1.0, "what the gripper still holds is not there yet"
        carried = [place[2] for place, holding in zip(places, held) if holding]
        assert max(carried) > 0.19, "over every rim"


def test_a_gripper_that_lets_go_on_the_way_has_not_done_the_task(environment: StationEnvironment) -> None:
    task = "put_eggplant_in_basket"
    expert = ExpertPolicy(environment)
    frames = environment.reset([start(task, 1)])
    expert.begin(1)
    station = environment.station()
    for _ in range(30):
        environment._active[0].step(expert.act(frames, [CONFIG.tasks[task].instruction])[0, 0])
        if station.view.body_pose("eggplant")[2, 3] > 0.17:
            break
    assert station.view.is_held("eggplant")
    environment.step(np.tile(np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32), (1, 5, 1)))
    assert not station.view.is_held("eggplant") and not station.success(task)
    assert station.view.body_pose("eggplant")[2, 3] < 0.12, "it fell back into the sink"


def test_the_eggplant_sink_and_basket_are_protected_from_distractors() -> None:
    station = SimulatedStation(CONFIG)
    station.reset("put_eggplant_in_sink", 0)
    segmenter = Segmenter(CONFIG, station)
    protected, table = segmenter.masks(station.snapshot())
    geoms = segmenter._renderer.geoms(station.snapshot())
    names = ("eggplant", "basket")
    things = [station.model.body(name).id for name in names]
    shown = np.isin(station.model.geom_bodyid[np.maximum(geoms, 0)], things) & (geoms >= 0)
    assert shown.sum() > 500 and protected[shown].all() and not (table & protected).any()
    segmenter.close()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("site: sink}", "site: bath}", "tasks.put_eggplant_in_sink.success.site: found 'bath', which is no site"),
        ("site: sink}", "site: sink_floor}", "tasks.put_eggplant_in_sink.success.site: 'sink_floor' is no box"),
        ("at: sink_floor", "at: floor", r"tasks.put_eggplant_in_basket.bodies.eggplant.at: found 'floor'"),
        ("      eggplant: {at: basket_floor", "      basket: {at: basket_floor", "bodies.basket: has no free joint"),
        ("basket:\n    x", "bin:\n    x", "randomise: found 'bin', which is no body"),
        ("success: {body: eggplant, site: sink}", "success: {body: eggplant}", "success.*site: found nothing"),
    ],
)
def test_what_a_scene_file_names_must_be_in_its_model(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = (SCENES / "sink.yaml").read_text()
    assert old in text
    for name in ("sink.xml", "wx250s.xml"):
        (tmp_path / name).write_bytes((SCENES / name).read_bytes())
    (tmp_path / "mine.yaml").write_text(text.replace(old, new, 1))
    config = StationConfig(**{**vars(CONFIG), "simulation": SimulationConfig(str(tmp_path / "mine.yaml"))})
    with pytest.raises(ConfigError, match=message):
        SimulatedStation(config)

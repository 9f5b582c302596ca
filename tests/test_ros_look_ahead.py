"""An executor that looks ahead: the arm holds while it thinks, and a cancel does not wait for the thought."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnast_msgs.msg import ArmState, EpisodeStep

from gymnast_nodes.client import Station
from tests.machine import HANG_S, in_time
from tests.ros_tools import Client, running_station, wait_until
from tests.tiny_station import build_tiny_station, put_on_graph

CANDIDATES = 24


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Station]]:
    folder = tmp_path_factory.mktemp("station")
    path = build_tiny_station(folder, simulated=True)
    put_on_graph(path, look_ahead={"rollouts": CANDIDATES, "horizon": 40})
    with running_station(path) as (_, raw, station):
        yield raw, station


def test_the_arm_holds_while_the_executor_thinks(running: tuple[Client, Station]) -> None:
    raw, station = running
    steps = raw.listen(EpisodeStep, "/executor/step", 100)
    states = raw.listen(ArmState, "/arm/state", 2000)
    result = station.run_episode("open the drawer", task="open_drawer", max_steps=10, judge=False, seed=3).result(
        HANG_S
    )
    assert result.steps == 10, result.message
    facts = json.loads((Path(result.episode_path) / "episode.json").read_text())
    assert facts["metadata"]["look_ahead"] == CANDIDATES
    heard = [message for _, message in steps]
    thought = [message.policy_latency for message in heard]
    assert min(thought[0], thought[5]) > 0.3, "the thought must take long enough to be seen"
    assert max(thought[1:5] + thought[6:]) == 0.0, "one thought a chunk"

    def moment(stamp: object) -> float:
        return stamp.sec + stamp.nanosec * 1e-9  # type: ignore[attr-defined]

    ended, began = moment(heard[4].header.stamp), moment(heard[5].header.stamp)
    assert began - ended >= thought[5]
    between = [m for _, m in states if ended + 0.8 < moment(m.header.stamp) < began]
    places = np.array([list(m.bridge_pose)[:3] for m in between])
    assert len(places) < 3 or np.linalg.norm(places - places[0], axis=1).max() < 0.006


def test_a_goal_asks_for_a_look_ahead_by_its_name(running: tuple[Client, Station]) -> None:
    _, station = running
    result = station.run_trials("open_drawer", 1, "look-ahead-2:base", 5, 5).result(HANG_S)
    assert result.success, result.message
    facts = json.loads((Path(result.episode_paths[0]) / "episode.json").read_text())["metadata"]
    assert (facts["policy"], facts["look_ahead"], bool(facts["checkpoint"])) == ("look-ahead-2:base", 2, True)
    wrong = station.run_episode("open the drawer", "look-ahead:nobody", judge=False).result(HANG_S)
    assert "no adapter 'nobody'" in wrong.message


def test_a_cancel_does_not_wait_for_the_thought(running: tuple[Client, Station]) -> None:
    _, station = running
    wait_until(lambda: set(station.states().values()) == {"active"}, 60.0, "all nodes active")
    task = station.run_episode("open the drawer", task="open_drawer", max_steps=60, judge=False)
    wait_until(lambda: task.feedback is not None and task.feedback.step >= 5, 60.0, "the second thought")
    began = time.monotonic()
    task.cancel()
    result = task.result(HANG_S)
    assert task.status == "canceled" and "arm holds" in result.message
    assert in_time(1.5, began)

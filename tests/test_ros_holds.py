"""Over the real graph: an episode ends where its judge sees success, and a hold reaches log, result and report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gymnast_msgs.action import Practise, RunEpisode, RunTrials
from gymnast_msgs.msg import ArmLease, ArmState, BridgeAction

from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import read_episode
from gymnast_core.evaluation.session import TrialsResult, read_records
from gymnast_core.results import read_result
from gymnast_core.reward.classifier import load_classifier
from gymnast_core.robot.strain import ArmStrain, read_strain
from gymnast_nodes.client import Station
from gymnast_nodes.demo_page import DemoPage, Trials
from tests.machine import HANG_S
from tests.ros_tools import Client, running_station, set_faults, settle, wait_until
from tests.tiny_station import build_tiny_station, put_on_graph


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Client, Station]]:
    """A station whose judge never sees an open drawer, and always a closed one."""
    folder = tmp_path_factory.mktemp("station")
    path = build_tiny_station(folder)
    judge = load_classifier(folder / "judge", "cpu")
    with torch.no_grad():
        judge.network.head.weight.zero_()
        judge.network.head.bias.copy_(torch.tensor([-9.0, 9.0]))
    judge.save(folder / "judge")
    nothing_in_reach = {"workspace_min": [0.2, -0.1, 0.12], "workspace_max": [0.35, 0.1, 0.25]}
    strong = {"max_effort_ma": 3200.0, "reset_seconds": 1.0}  # the motions of an untrained policy hold nobody
    put_on_graph(path, arm=strong, safety=nothing_in_reach, executor={"stop_at_success": True, "success_looks": 3})
    with running_station(path) as (_, raw, station):
        raw.listen(ArmState, "/arm/state")
        yield path, raw, station


def test_an_episode_ends_when_its_judge_sees_success_on_the_real_frames(running: tuple[Path, Client, Station]) -> None:
    _, _, station = running
    result = station.run_episode("close the drawer", task="close_drawer", max_steps=60).result(HANG_S)
    assert result.stopped_at_success and result.outcome == RunEpisode.Result.OUTCOME_SUCCESS, result.message
    assert 3 <= result.steps < 30 and f"ended after {result.steps} steps" in result.message
    episode = read_episode(result.episode_path)
    assert episode.length == result.steps and episode.complete and episode.success
    assert "the judge saw success" in episode.metadata["reason"]
    whole = station.run_episode("open the drawer", task="open_drawer", max_steps=7).result(HANG_S)
    assert whole.steps == 7 and not whole.stopped_at_success and whole.outcome == RunEpisode.Result.OUTCOME_FAILURE


def trial_with_an_overload(raw: Client, station: Station) -> tuple[str, RunTrials.Result]:
    """One trial, in which the shoulder is overloaded until the arm is held, or the trial is over before; the action's
    status, and its result."""
    settle(raw)
    task = station.run_trials("open_drawer", 1, first_seed=5, max_steps=25)
    wait_until(lambda: task.feedback and task.feedback.phase == "run" and task.feedback.step >= 4, 60.0, "steps")
    heard = raw.heard["/arm/state"]
    before, first = heard[-1][1].holds, len(heard)
    set_faults(raw, "overload:shoulder")
    try:
        wait_until(lambda: raw.latest("/arm/state").holds > before or task.is_complete(), 20.0, "a hold, or the end")
    finally:
        set_faults(raw)
    result = task.result(HANG_S)
    states = [state for _, state in heard[first:]]
    if any(state.holds > before and state.hold in ("overload", "jammed") for state in states):
        assert max(max(state.load) for state in states) > 1.0
    return task.status, result


def test_a_hold_reaches_log_result_and_report(running: tuple[Path, Client, Station], tmp_path: Path) -> None:
    path, raw, station = running
    tries = []
    for _ in range(6):  # a machine that is away for a second meanwhile makes a jam of it, which ends the trial
        status, result = trial_with_an_overload(raw, station)
        records = read_records(Path(result.run_folder)) if result.run_folder else []
        tries.append((status, result.message, [record.events for record in records]))
        if status == "succeeded" and "holding:overload" in records[0].events:
            break
    (record,) = records
    assert status == "succeeded" and "holding:overload" in record.events and result.peak_load > 1.0, tries

    cost = read_strain(record.episode_path)
    held = [(number, name) for number, step in enumerate(cost) for name in step.holds]
    assert len(held) == result.holds >= 1 and all(3 <= number < 24 for number, name in held if name == "overload")
    assert max(step.load for step in cost) == pytest.approx(result.peak_load, abs=1e-3)
    assert record.strain == ArmStrain.of(cost)
    assert record.events["holding:overload"] == sum(name == "overload" for _, name in held)
    assert read_result(TrialsResult, Path(result.run_folder)).strain == record.strain

    lines = tuple(json.loads(line) for line in (Path(result.run_folder) / "trials.jsonl").read_text().splitlines())
    trials = Trials("base", "base", result, lines)
    practice = Practise.Result(frame_path=str(path.parent / "start.png"), run_folder=str(tmp_path), message="none")
    practice.episode_path = record.episode_path
    (tmp_path / "media").mkdir()
    page = DemoPage(tmp_path, load_config(StationConfig, path), "open the drawer", trials, practice, None)
    report = page.write(1.0).read_text()
    assert f"{result.holds}.0 holds" in report and f"peak load {result.peak_load:.0%}" in report


def test_an_arm_that_is_given_back_while_it_pushes_lets_go_at_once(running: tuple[Path, Client, Station]) -> None:
    """Not after the time that a fault must last: the end of an episode is no hold."""
    _, raw, _ = running
    settle(raw)
    for attempt in range(5):  # on a busy machine the fault may be older than that when the arm is given back
        before = raw.latest("/arm/state").holds
        action = BridgeAction(episode_id=f"given back {attempt}", gripper=1.0, commander="tester")
        action.header.stamp = raw.node.get_clock().now().to_msg()
        raw.publish(BridgeAction, "/arm/action", action)
        wait_until(lambda: raw.latest("/arm/state").mode == ArmState.MODE_READY, 5.0, "an action under way")
        set_faults(raw, "overload:shoulder")
        raw.publish(ArmLease, "/arm/lease", ArmLease(commander="tester", release=True))
        wait_until(lambda: raw.latest("/arm/state").mode != ArmState.MODE_READY, 5.0, "a hold")
        state = raw.latest("/arm/state")
        set_faults(raw)
        wait_until(lambda: max(raw.latest("/arm/state").load) < 1.0, 5.0, "an arm at rest")
        if "gave it back" in state.detail:
            break
    assert "gave it back" in state.detail and state.holds == before
    raw.fall_silent("/arm/action")

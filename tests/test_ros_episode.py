"""Episodes over the real graph: recorded whole, cancelled within a second, held when any process is killed.

The models are tiny and untrained; every process, message and file is the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="no ROS 2 here; run `make setup` or source one")
pytest.importorskip("gymnast_msgs.msg", reason="the ROS interfaces are not built; run `make setup`")

from gymnast_msgs.action import RunEpisode
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState

from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import read_episode
from gymnast_core.data.recover import RecoverConfig, recover
from gymnast_core.errors import StationError
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import load_policy
from gymnast_core.protocols import Environment, Start
from gymnast_nodes.client import Station
from gymnast_nodes.ros_environment import RosStationEnvironment
from tests.ros_tools import Client, Process, assert_held, process_of, running_station, set_faults, wait_until
from tests.tiny_station import build_tiny_station, put_on_graph

Outcome = RunEpisode.Result


@dataclass
class Running:
    """The graph, a plain rclpy client of it, and our own client."""

    folder: Path
    config: Path
    graph: Process
    raw: Client
    station: Station


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("station")
    path = build_tiny_station(folder)
    nothing_in_reach = {"workspace_min": [0.2, -0.1, 0.12], "workspace_max": [0.35, 0.1, 0.25]}
    put_on_graph(path, safety=nothing_in_reach)
    with running_station(path) as (graph, raw, station):
        raw.listen(ArmState, "/arm/state")
        raw.listen(EpisodeStep, "/executor/step", 100)
        raw.listen(BridgeAction, "/arm/action", 100)
        yield Running(folder, path, graph, raw, station)


@pytest.fixture(autouse=True)
def whole(running: Running) -> Iterator[None]:
    """Every test begins with all nodes active, an armed arm at its start and no injected fault."""
    set_faults(running.raw)
    wait_until(lambda: set(running.station.states().values()) == {"active"}, 60.0, "all nodes active again")
    with contextlib.suppress(StationError):
        running.station.rearm()
    wait_until(lambda: _reset(running), 30.0, "the arm at its start")
    yield


def _reset(running: Running) -> bool:
    with contextlib.suppress(StationError):
        running.station.reset_arm()
        return True
    return False


def begin(running: Running, steps: int = 60, after: int = 5) -> Any:
    """An episode under way, `after` steps old."""
    task = running.station.run_episode("open the drawer", task="open_drawer", max_steps=steps, judge=False)
    wait_until(lambda: task.feedback is not None and task.feedback.step >= after, 20.0, "steps")
    return task


def log_counts(folder: Path) -> dict[str, int]:
    with AnyReader([folder / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        return {topic: information.msgcount for topic, information in reader.topics.items()}


def log_stamps(folder: Path, topic: str) -> list[int]:
    stamps = []
    with AnyReader([folder / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        chosen = [connection for connection in reader.connections if connection.topic == topic]
        for connection, _, raw in reader.messages(connections=chosen):
            stamp = reader.deserialize(raw, connection.msgtype).header.stamp
            stamps.append(stamp.sec * 10**9 + stamp.nanosec)
    return sorted(stamps)


def newest_episode(running: Running) -> Path:
    return sorted((running.folder / "episodes").iterdir())[-1]


def test_an_episode_is_recorded_whole_at_the_control_rate(running: Running) -> None:
    joints = running.raw.listen(JointState, "/wx250s/joint_states", 1000)
    images = running.raw.listen(Image, "/camera/image_raw", 100)
    running.station.reset_scene("open_drawer", 3)
    task = running.station.run_episode("open the drawer", task="open_drawer", max_steps=20, seed=7)
    result = task.result(60.0)
    assert task.status == "succeeded", result.message
    assert result.steps == 20 and result.outcome in (Outcome.OUTCOME_SUCCESS, Outcome.OUTCOME_FAILURE)
    assert 4.5 < task.feedback.step_rate < 5.5 and task.feedback.frame_rate > 5.0

    folder = Path(result.episode_path)
    episode = read_episode(folder)
    assert episode.length == 20 and episode.complete and episode.frames.shape[1:] == (48, 48, 3)
    assert episode.success is (result.outcome == Outcome.OUTCOME_SUCCESS)
    assert np.isfinite(episode.states).all() and np.isfinite(episode.executed).all()
    sent = [m for _, m in running.raw.heard["/arm/action"] if m.episode_id == folder.name]
    np.testing.assert_allclose(episode.actions[:, :3], [m.translation for m in sent], atol=1e-6)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in sent]
    assert abs((stamps[-1] - stamps[0]) / 19 - 0.2) < 0.01  # no drift

    # Nothing that another listener heard while it ran is missing, and nothing has a gap.
    counts = log_counts(folder)
    assert counts["/executor/step"] == counts["/arm/action"] == counts["/arm/executed"] == 20
    for topic, heard in (("/wx250s/joint_states", joints), ("/camera/image_raw", images)):
        logged = log_stamps(folder, topic)
        others = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in list(heard)]
        expected = sorted(stamp for stamp in others if logged[0] <= stamp <= logged[-1])
        assert logged == expected and len(logged) > 20


def test_bad_goals_end_in_one_line_and_move_nothing(running: Running) -> None:
    for request, words in (
        ({"instruction": ""}, "instruction"),
        ({"instruction": "x" * 10_000}, "10000 characters"),
        ({"instruction": "open the drawer", "policy": "nobody"}, "no adapter 'nobody'"),
        ({"instruction": "open the drawer", "policy": "../base"}, "adapter name"),
        ({"instruction": "open the drawer", "task": "fly"}, "unknown task 'fly'"),
    ):
        before = len(running.raw.heard["/arm/action"])
        task = running.station.run_episode(**request)
        result = task.result(20.0)
        assert task.status == "aborted" and result.outcome == Outcome.OUTCOME_ABORTED
        assert words in result.message and "\n" not in result.message
        assert len(running.raw.heard["/arm/action"]) == before


def test_a_practice_of_no_possible_length_is_refused_before_anything_moves(running: Running) -> None:
    states = running.raw.heard["/arm/state"]
    first = len(states)
    for seconds in (-1.0, float("nan"), float("inf")):
        task = running.station.practise("open the drawer", "open_drawer", reset=True, seconds=seconds)
        result = task.result(20.0)
        assert task.status == "aborted" and "seconds: found" in result.message
    assert ArmState.MODE_MOVING not in {message.mode for _, message in states[first:]}


def test_cancel_ends_within_a_second_with_the_arm_held(running: Running) -> None:
    task = begin(running)
    began = time.monotonic()
    assert task.cancel(5.0)
    assert time.monotonic() - began < 1.0
    result = task.result()
    assert task.status == "canceled" and result.outcome == Outcome.OUTCOME_CANCELLED, result.message
    assert_held(running.raw, began)
    episode = read_episode(task.result().episode_path)
    assert not episode.complete and episode.length == task.result().steps


def test_an_executor_deactivated_in_an_episode_leaves_the_arm_held_until_it_is_activated(running: Running) -> None:
    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(running.raw.call(ChangeState, "/executor/change_state", request).success)

    begin(running)
    began = time.monotonic()
    assert change(Transition.TRANSITION_DEACTIVATE)
    assert_held(running.raw, began)
    assert not read_episode(newest_episode(running)).complete
    wrong = {"executor": "inactive: deactivated by hand"}
    wait_until(lambda: running.station.problems() == wrong, 2.0, "what is wrong")
    with pytest.raises(StationError, match="not active"):
        running.station.run_episode("open the drawer")
    assert change(Transition.TRANSITION_ACTIVATE)
    process = process_of("executor", running.graph)
    assert not change(Transition.TRANSITION_CONFIGURE), "an active node cannot be configured"
    assert running.station.run_episode("open the drawer", max_steps=2, judge=False).result(20.0).steps == 2
    assert process_of("executor", running.graph) == process


def test_a_camera_that_stops_ends_the_episode_with_the_arm_held(running: Running) -> None:
    task = begin(running)
    set_faults(running.raw, "camera_stopped")
    result = task.result(20.0)
    ended = time.monotonic()
    assert result.outcome == Outcome.OUTCOME_ABORTED and "camera" in result.message and "\n" not in result.message
    assert_held(running.raw, ended)


def test_emergency_stop_ends_the_episode(running: Running) -> None:
    task = begin(running)
    began = time.monotonic()
    running.station.emergency_stop("test")
    result = task.result(20.0)
    assert result.outcome == Outcome.OUTCOME_ABORTED and "stopped" in result.message
    assert_held(running.raw, began)


def test_a_full_disk_ends_the_episode_with_one_line_and_the_arm_held(running: Running) -> None:
    task = begin(running)
    recorder = process_of("recorder", running.graph)
    limits = resource.prlimit(recorder, resource.RLIMIT_FSIZE)
    written = (newest_episode(running) / "log" / "log_0.mcap").stat().st_size
    resource.prlimit(recorder, resource.RLIMIT_FSIZE, (written + 100_000, limits[1]))
    try:
        result = task.result(20.0)
        ended = time.monotonic()
    finally:
        resource.prlimit(recorder, resource.RLIMIT_FSIZE, limits)
    assert result.outcome == Outcome.OUTCOME_ABORTED
    assert "recorder:" in result.message and "cannot write" in result.message and "\n" not in result.message
    assert_held(running.raw, ended)
    folder = newest_episode(running)
    assert not read_episode(folder).complete and not list(folder.rglob("*.tmp"))


def test_a_killed_executor_leaves_arm_held_log_readable_and_comes_back(running: Running) -> None:
    task = begin(running)
    os.kill(process_of("executor", running.graph), signal.SIGKILL)
    killed = time.monotonic()
    assert_held(running.raw, killed)
    with pytest.raises(StationError, match="went down"):
        task.result(30.0)
    folder = newest_episode(running)
    steps = [m for _, m in running.raw.heard["/executor/step"] if m.episode_id == folder.name]
    wait_until(
        lambda: json.loads((folder / "episode.json").read_text())["status"] == "incomplete", 15.0, "a closed log"
    )
    assert log_counts(folder)["/executor/step"] == len(steps)
    assert read_episode(folder).length == len(steps)


def test_a_killed_recorder_leaves_arm_held_and_the_log_up_to_the_last_step(running: Running) -> None:
    task = begin(running)
    os.kill(process_of("recorder", running.graph), signal.SIGKILL)
    killed = time.monotonic()
    assert_held(running.raw, killed)
    result = task.result(30.0)
    assert result.outcome == Outcome.OUTCOME_ABORTED and "recorder" in result.message
    folder = newest_episode(running)
    logged = [m for t, m in running.raw.heard["/executor/step"] if m.episode_id == folder.name and t < killed - 0.05]
    assert read_episode(folder).length >= len(logged) - 1
    assert recover(RecoverConfig(folder)) == 0
    assert log_counts(folder)["/executor/step"] >= len(logged)


def test_a_killed_adapter_ends_the_practice_takes_its_trainer_along_and_comes_back(running: Running) -> None:
    phases: list[str] = []
    task = running.station.practise("open the drawer", on_feedback=lambda feedback: phases.append(feedback.phase))
    wait_until(lambda: "load" in phases, 30.0, "the trainer at work")
    wait_until(lambda: _trainers(running), 20.0, "a trainer process")
    os.kill(process_of("adapter", running.graph), signal.SIGKILL)
    result = task.result(30.0)
    assert task.status == "aborted" and "adapter/adapt: its node went down" in result.message
    wait_until(lambda: not _trainers(running), 5.0, "the end of the trainer")


def _trainers(running: Running) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                if "gymnast_core.cli adapt" in line and str(running.folder) in line:
                    found.append(line)
    return found


def test_cancelling_a_practice_ends_it_and_its_trainer_within_a_second(running: Running) -> None:
    task = running.station.practise("open the drawer")
    wait_until(lambda: _trainers(running), 30.0, "a trainer process")
    began = time.monotonic()
    assert task.cancel(5.0)
    assert time.monotonic() - began < 1.0 and task.status == "canceled"
    wait_until(lambda: not _trainers(running), 2.0, "the end of the trainer")


def test_practise_goes_from_frame_to_logged_episode(running: Running) -> None:
    phases: list[str] = []
    task = running.station.practise(
        "open the drawer", "open_drawer", reset=True, execute=True, iterations=1, seconds=30.0, seed=3,
        on_feedback=lambda feedback: phases.append(feedback.phase),
    )  # fmt: skip
    result = task.result(240.0)
    assert task.status == "succeeded" and result.success, result.message
    seen = list(dict.fromkeys(phases))
    order = ["reset", "capture", "load", "before", "train", "after", "gate", "execute", "log"]
    assert [phase for phase in order if phase in seen] == seen and {"reset", "capture", "execute"} <= set(seen)
    assert result.accepted == bool(result.adapter_id) and bool(result.failed_conditions) != result.accepted
    assert Path(result.frame_path).is_file() and (Path(result.run_folder) / "result.json").is_file()
    assert read_episode(result.episode_path).metadata["policy"] == (result.adapter_id or "base")


def test_trials_are_scored_by_the_stations_truth(running: Running) -> None:
    task = running.station.run_trials("open_drawer", 2, first_seed=5, max_steps=4)
    result = task.result(120.0)
    assert task.status == "succeeded" and result.success, result.message
    assert len(result.outcomes) == len(result.episode_paths) == 2 and result.successes == 0
    for path in result.episode_paths:
        episode = read_episode(path)
        assert episode.length == 4 and episode.metadata["outcome_by"] == "station" and episode.success is False


def test_a_stored_adapter_acts_in_its_episode_and_is_named_in_it(running: Running) -> None:
    station = load_config(StationConfig, running.config)
    policy = load_policy(station.models.policy, station.models.unnorm_key, "cpu")
    adapters.attach(policy, "always_up", rank=2)
    with torch.no_grad():  # factors so large that the adapter cannot go unnoticed
        for name, parameter in policy.model.named_parameters():
            if "always_up" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    adapters.AdapterStore(station.models.adapters).save(policy, "always_up", "always_up", station.name, "open_drawer")
    actions = {}
    for name in ("base", "always_up"):
        task = running.station.run_episode("open the drawer", name, "open_drawer", max_steps=1, judge=False)
        result = task.result(30.0)
        assert task.status == "succeeded", result.message
        episode = read_episode(result.episode_path)
        assert episode.metadata["policy"] == name
        adapters.activate(policy, *([name] if name != "base" else []))
        expected = policy.act(episode.frames[:1], ["open the drawer"])[0, 0]
        np.testing.assert_allclose(episode.actions[0, :6], expected[:6], atol=1e-5)
        actions[name] = episode.actions[0]
    assert not np.allclose(actions["base"], actions["always_up"])


def test_the_station_is_an_environment_like_the_others(running: Running) -> None:
    environment = RosStationEnvironment(running.station, load_config(StationConfig, running.config))
    assert isinstance(environment, Environment) and environment.max_rollouts == 1
    frames = environment.reset([Start("open the drawer", task="open_drawer", seed=2)])
    assert frames.shape == (1, 48, 48, 3)
    actions = np.zeros((1, 5, 7), np.float32)
    actions[..., 1], actions[..., 6] = 0.015, 1.0
    y_before = running.raw.latest("/arm/state").bridge_pose[1]
    result = environment.step(actions)
    assert result.executed.shape == (1, 5, 7) and result.success.tolist() == [0.0]
    assert running.raw.latest("/arm/state").bridge_pose[1] - y_before > 0.04
    assert environment.video().shape == (1, 6, 48, 48, 3)
    with pytest.raises(StationError, match="one rollout"):
        environment.reset([Start("a"), Start("b")])

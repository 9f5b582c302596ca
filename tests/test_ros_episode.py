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
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gymnast_msgs.action import RunEpisode
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep, ExecutedAction
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState

from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import read_episode
from gymnast_core.data.formats import open_episode
from gymnast_core.data.frames import resize_frame
from gymnast_core.data.logged_by import station_file_of
from gymnast_core.data.recover import RecoverConfig, recover
from gymnast_core.errors import DataError, StationError
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import load_policy
from gymnast_core.rollout.starts import read_frame, read_starts
from gymnast_nodes.client import Station
from gymnast_nodes.driving import Driving
from gymnast_nodes.messages import image_to_frame
from tests.machine import HANG_S, LATENESS, in_time
from tests.ros_tools import Client, Process, assert_held, process_of, running_station, set_faults, settle, wait_until
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
    put_on_graph(path, safety=nothing_in_reach, adaptation={"rehearsal": "auto", "rehearsal_frames": 1})
    with running_station(path) as (graph, raw, station):
        raw.listen(ArmState, "/arm/state")
        raw.listen(EpisodeStep, "/executor/step", 100)
        raw.listen(BridgeAction, "/arm/action", 100)
        yield Running(folder, path, graph, raw, station)


@pytest.fixture(autouse=True)
def whole(running: Running) -> Iterator[None]:
    """Every test begins with all nodes active, an armed arm at its start and no injected fault."""
    set_faults(running.raw)
    try:
        wait_until(lambda: set(running.station.states().values()) == {"active"}, 60.0, "all nodes active again")
    except pytest.fail.Exception as late:
        pytest.fail(f"{late}\n{running.station.states()}, {running.station.problems()}\n{running.graph.output[-6000:]}")
    settle(running.raw)
    yield


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


def _stamp(message: Any) -> float:
    return float(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)


def test_a_stranger_who_commands_ends_the_episode_by_name_and_moves_nothing(running: Running) -> None:
    """Its actions are valid, bear the episode's name and its next steps, and come between the executor's."""
    executed = running.raw.listen(ExecutedAction, "/arm/executed", 100)
    task = begin(running, steps=40, after=2)
    name = running.raw.heard["/arm/action"][-1][1].episode_id
    step = 0
    while not task.is_complete() and step < 100:
        step += 1
        stranger = BridgeAction(episode_id=name, step=step + 3, gripper=0.0, commander="stranger")
        stranger.translation = [0.0, 0.05, 0.0]
        stranger.header.stamp = running.raw.node.get_clock().now().to_msg()
        running.raw.publish(BridgeAction, "/arm/action", stranger)
        time.sleep(0.1)
    running.raw.fall_silent("/arm/action")
    result = task.result(HANG_S)
    assert result.outcome == Outcome.OUTCOME_ABORTED and "2 nodes publish /arm/action" in result.message
    assert "/executor" in result.message and "/test_client" in result.message
    # Once the executor has given the arm back, the stranger commands it; it may have been seen before it was heard.
    states = [state for _, state in running.raw.heard["/arm/state"]]
    held_until = max(_stamp(state) for state in states if state.commander.startswith("/executor"))
    # By the arm node's own clock: topics overtake each other on a busy machine.
    during = [m for _, m in executed if m.commanded.commander == "stranger" and _stamp(m) <= held_until]
    assert all(list(m.safety_events) == ["not_the_commander"] and not m.accepted for m in during), during
    assert (read_episode(Path(result.episode_path)).executed[:, 1] < 0.045).all()
    wait_until(lambda: running.raw.heard["/arm/state"][-1][1].commander == "", 5.0, "a free arm")


def test_a_script_drives_the_arm_and_an_emergency_stop_takes_it_away(running: Running) -> None:
    """Ten steps forth and back again: the arm is where it was sent, and belongs to nobody afterwards."""

    def move(arm: Driving, metres: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(steps):
            arm.act(np.float32([metres, 0, 0, 0, 0, 0, 1]))
            time.sleep(0.2)
        time.sleep(0.4)
        return arm.observe()

    with running.station.drive(str(running.config)) as arm:
        frame, before = arm.observe()
        size = load_config(StationConfig, running.config).camera.observation_size
        assert frame.shape == (size, size, 3) and np.isfinite(before).all()
        _, after = move(arm, 0.01, 5)
        assert after[0] - before[0] == pytest.approx(0.05, abs=0.02)
        with pytest.raises(DataError, match="needed 7 finite numbers"):
            arm.act(np.float32([np.nan] * 7))
        running.station.emergency_stop("test")
        with pytest.raises(StationError, match="stopped"):
            move(arm, 0.01, 50)
    wait_until(lambda: running.raw.heard["/arm/state"][-1][1].commander == "", 5.0, "a free arm")
    running.station.rearm()
    with running.station.drive(str(running.config)) as arm:
        move(arm, -0.01, 5)


def test_an_episode_is_recorded_whole_at_the_control_rate(running: Running) -> None:
    joints = running.raw.listen(JointState, "/wx250s/joint_states", 1000)
    images = running.raw.listen(Image, "/camera/image_raw", 100)
    views = running.raw.listen(Image, "/executor/policy_view", 100)
    running.station.reset_scene("open_drawer", 3)
    began = time.monotonic()
    task = running.station.run_episode("open the drawer", task="open_drawer", max_steps=20, seed=7)
    result = task.result(HANG_S)
    assert task.status == "succeeded", result.message
    assert result.steps == 20 and result.outcome in (Outcome.OUTCOME_SUCCESS, Outcome.OUTCOME_FAILURE)
    late = LATENESS.stalled(began) > 1.0  # on a busy machine it may be slower, never faster
    assert task.feedback.step_rate < 5.5 and (late or (task.feedback.step_rate > 4.5 and task.feedback.frame_rate > 5))

    folder = Path(result.episode_path)
    episode = read_episode(folder)
    assert episode.length == 20 and episode.complete and episode.frames.shape[1:] == (48, 48, 3)
    assert episode.success is (result.outcome == Outcome.OUTCOME_SUCCESS)
    assert (
        0 <= episode.metadata.get("completed_at", 0) <= 20 and ("completed_at" in episode.metadata) == episode.success
    )
    assert None not in open_episode(folder).truths() and open_episode(folder).outcome().by == "station"
    assert np.isfinite(episode.states).all() and np.isfinite(episode.executed).all()
    sent = [m for _, m in running.raw.heard["/arm/action"] if m.episode_id == folder.name]
    np.testing.assert_allclose(episode.actions[:, :3], [m.translation for m in sent], atol=1e-6)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in sent]
    drift = (stamps[-1] - stamps[0]) / 19 - 0.2
    assert drift > -0.01 and (late or drift < 0.01)

    # The policy's own picture was published: of a camera frame, in the size of an observation.
    seen = {m.header.stamp.sec * 10**9 + m.header.stamp.nanosec: image_to_frame(m) for _, m in list(views)}
    frames = {m.header.stamp.sec * 10**9 + m.header.stamp.nanosec: image_to_frame(m) for _, m in list(images)}
    both = sorted(seen.keys() & frames.keys())
    assert both and all((seen[stamp] == resize_frame(frames[stamp], 48)).all() for stamp in both)

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
        ({"instruction": "open the drawer", "policy": "no name"}, "adapter name"),
        ({"instruction": "open the drawer", "policy": "../base"}, "model '../base' not found"),
        ({"instruction": "open the drawer", "policy": "http://127.0.0.1:9"}, "no policy server answers"),
        ({"instruction": "open the drawer", "task": "fly"}, "unknown task 'fly'"),
    ):
        before = len(running.raw.heard["/arm/action"])
        task = running.station.run_episode(**request)
        result = task.result(HANG_S)
        assert task.status == "aborted" and result.outcome == Outcome.OUTCOME_ABORTED
        assert words in result.message and "\n" not in result.message
        assert len(running.raw.heard["/arm/action"]) == before


def test_a_practice_of_no_possible_length_is_refused_before_anything_moves(running: Running) -> None:
    states = running.raw.heard["/arm/state"]
    first = len(states)
    for seconds in (-1.0, float("nan"), float("inf")):
        task = running.station.practise("open the drawer", "open_drawer", reset=True, seconds=seconds)
        result = task.result(HANG_S)
        assert task.status == "aborted" and "seconds: found" in result.message
    assert ArmState.MODE_MOVING not in {message.mode for _, message in states[first:]}


def test_cancel_ends_within_a_second_with_the_arm_held(running: Running) -> None:
    task = begin(running)
    began = time.monotonic()
    assert task.cancel(5.0)
    assert in_time(1.0, began)
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
    assert running.station.run_episode("open the drawer", max_steps=2, judge=False).result(HANG_S).steps == 2
    assert process_of("executor", running.graph) == process


def test_a_camera_that_stops_ends_the_episode_with_the_arm_held(running: Running) -> None:
    task = begin(running)
    set_faults(running.raw, "camera_stopped")
    result = task.result(HANG_S)
    ended = time.monotonic()
    assert result.outcome == Outcome.OUTCOME_ABORTED and "camera" in result.message and "\n" not in result.message
    assert_held(running.raw, ended)


def test_an_executor_that_stood_still_for_a_moment_goes_on(running: Running) -> None:
    """Neither camera nor arm was silent: nobody listened."""
    task = begin(running, steps=15)
    executor = process_of("executor", running.graph)
    for _ in range(3):
        os.kill(executor, signal.SIGSTOP)
        time.sleep(0.8)
        os.kill(executor, signal.SIGCONT)
        time.sleep(0.4)
    result = task.result(HANG_S)
    assert result.outcome != Outcome.OUTCOME_ABORTED and result.steps == 15, result.message


def test_emergency_stop_ends_the_episode(running: Running) -> None:
    task = begin(running)
    began = time.monotonic()
    running.station.emergency_stop("test")
    result = task.result(HANG_S)
    assert result.outcome == Outcome.OUTCOME_ABORTED and "stopped" in result.message
    assert_held(running.raw, began)


def test_a_motors_error_ends_the_episode_and_is_in_the_diagnostics(running: Running) -> None:
    told = running.raw.listen(DiagnosticArray, "/diagnostics", 100)
    task = begin(running)
    began = time.monotonic()
    set_faults(running.raw, "motor_error:elbow")
    result = task.result(HANG_S)
    assert result.outcome == Outcome.OUTCOME_ABORTED and "motor fault: elbow" in result.message
    assert "\n" not in result.message and in_time(3.0, began)
    assert_held(running.raw, time.monotonic())
    header = json.loads((newest_episode(running) / "episode.json").read_text())
    assert header["metadata"]["outcome"] == "aborted" and "elbow" in header["metadata"]["reason"]

    def said() -> bool:
        lines = [status for _, message in told[-20:] for status in message.status if status.name == "arm: arm"]
        return any(line.level == DiagnosticStatus.ERROR and "elbow" in line.message for line in lines)

    wait_until(said, 3.0, "diagnostics that name the motor")


def test_a_full_disk_ends_the_episode_with_one_line_and_the_arm_held(running: Running) -> None:
    task = begin(running)
    recorder = process_of("recorder", running.graph)
    limits = resource.prlimit(recorder, resource.RLIMIT_FSIZE)
    written = (newest_episode(running) / "log" / "log_0.mcap").stat().st_size
    resource.prlimit(recorder, resource.RLIMIT_FSIZE, (written + 100_000, limits[1]))
    try:
        result = task.result(HANG_S)
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
        task.result(HANG_S)
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
    result = task.result(HANG_S)
    assert result.outcome == Outcome.OUTCOME_ABORTED and "recorder" in result.message
    folder = newest_episode(running)
    steps = [t for t, m in running.raw.heard["/executor/step"] if m.episode_id == folder.name]
    logged = [t for t in steps if not in_time(0.2, t, killed)]  # a recorder that waits for a core writes later
    assert read_episode(folder).length >= len(logged) - 1
    assert recover(RecoverConfig(folder)) == 0
    assert log_counts(folder)["/executor/step"] >= len(logged)


def test_a_killed_adapter_ends_the_practice_takes_its_trainer_along_and_comes_back(running: Running) -> None:
    phases: list[str] = []
    task = running.station.practise("open the drawer", on_feedback=lambda feedback: phases.append(feedback.phase))
    wait_until(lambda: "load" in phases, 30.0, "the trainer at work")
    wait_until(lambda: _trainers(running), 20.0, "a trainer process")
    os.kill(process_of("adapter", running.graph), signal.SIGKILL)
    result = task.result(HANG_S)
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
    assert in_time(1.0, began) and task.status == "canceled"
    wait_until(lambda: not _trainers(running), 2.0, "the end of the trainer")


def test_practise_goes_from_frame_to_logged_episode(running: Running) -> None:
    phases: list[str] = []
    task = running.station.practise(
        "open the drawer", "open_drawer", reset=True, execute=True, iterations=1, seconds=30.0, seed=3, frames=2,
        on_feedback=lambda feedback: phases.append(feedback.phase),
    )  # fmt: skip
    result = task.result(HANG_S)
    assert task.status == "succeeded" and result.success, result.message
    seen = list(dict.fromkeys(phases))
    order = ["reset", "capture", "load", "before", "train", "after", "gate", "execute", "log"]
    assert [phase for phase in order if phase in seen] == seen and {"reset", "capture", "execute"} <= set(seen)
    assert result.accepted == bool(result.adapter_id) and bool(result.failed_conditions) != result.accepted
    run = Path(result.run_folder)
    assert Path(result.frame_path).is_file() and (run / "result.json").is_file()
    first, second = (read_frame(str(run / name)) for name in ("frame.png", "start_1.png"))
    assert not np.array_equal(first.frame, second.frame), "two resets"
    assert first.position is not None and second.position is not None and first.position != second.position
    others = read_starts(run / "rehearsal")
    assert {start.instruction for start in others} == {"close the drawer"} and len(others) == 1
    assert all(start.position is not None for start in others)
    assert read_episode(result.episode_path).metadata["policy"] == (result.adapter_id or "base")


def test_trials_are_scored_by_the_stations_truth(running: Running) -> None:
    task = running.station.run_trials("open_drawer", 2, first_seed=5, max_steps=4)
    result = task.result(HANG_S)
    assert task.status == "succeeded" and result.success, result.message
    assert len(result.outcomes) == len(result.episode_paths) == 2 and result.successes == 0
    for path in result.episode_paths:
        episode = read_episode(path)
        assert episode.length == 4 and episode.metadata["outcome_by"] == "station" and episode.success is False
        assert open_episode(path).truths() == [False] * 4, "known after each step, not at the end alone"
        assert open_episode(path).outcome().within(2) is False and station_file_of([path]) == running.config.resolve()


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
        result = task.result(HANG_S)
        assert task.status == "succeeded", result.message
        episode = read_episode(result.episode_path)
        assert episode.metadata["policy"] == name
        adapters.activate(policy, *([name] if name != "base" else []))
        expected = policy.act(episode.frames[:1], ["open the drawer"])[0, 0]
        np.testing.assert_allclose(episode.actions[0, :6], expected[:6], atol=1e-5)
        actions[name] = episode.actions[0]
    assert not np.allclose(actions["base"], actions["always_up"])

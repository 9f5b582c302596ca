"""A policy server on the real graph: it acts, and whatever it does wrong ends the episode in one line, the arm held."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gymnast_msgs.action import RunEpisode
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep

from gymnast_core.data.episode import read_episode
from gymnast_core.policy.remote import TOKEN_VARIABLE
from gymnast_core.policy.scripted import ScriptedPolicy
from gymnast_nodes.client import Station
from tests.machine import HANG_S, in_time
from tests.policy_server import PolicyServer
from tests.ros_tools import Client, Process, assert_held, process_of, running_station, settle, wait_until
from tests.tiny_station import build_tiny_station, put_on_graph

Outcome = RunEpisode.Result
ACTIONS = np.zeros((400, 7), np.float32)
ACTIONS[:, 0] = np.where(np.arange(400) % 4 < 2, 0.004, -0.004)  # to and fro, so that it never ends out of reach
ACTIONS[:, 6] = 1.0


@dataclass
class Running:
    """The graph with a policy elsewhere, its server, and two clients."""

    graph: Process
    raw: Client
    station: Station
    server: PolicyServer
    executor: int


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("station")
    path = build_tiny_station(folder)
    server = PolicyServer(ScriptedPolicy(ACTIONS))
    put_on_graph(path, models={"policy": server.address})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, "of-this-station")
        with running_station(path, without=("adapter", "evaluator")) as (process, raw, station):
            raw.listen(ArmState, "/arm/state")
            raw.listen(BridgeAction, "/arm/action", 100)
            raw.listen(EpisodeStep, "/executor/step", 100)
            yield Running(process, raw, station, server, process_of("executor", process))
    server.end()


@pytest.fixture
def running(graph: Running) -> Iterator[Running]:
    """An arm at its start and a server that behaves; afterwards the executor is the same process, and active."""
    graph.server.spoil, graph.server.before = lambda actions: None, lambda: None
    graph.server.policy = ScriptedPolicy(ACTIONS)
    settle(graph.raw)
    yield graph
    assert process_of("executor", graph.graph) == graph.executor
    assert graph.station.states()["executor"] == "active"


def run(running: Running, steps: int, judge: bool = False, policy: str = "base") -> tuple[str, RunEpisode.Result]:
    task = running.station.run_episode(
        "open the drawer", task="open_drawer", policy=policy, max_steps=steps, judge=judge
    )
    result = task.result(HANG_S)
    return task.status, result


def test_a_policy_elsewhere_acts_and_its_episode_is_judged(running: Running) -> None:
    seen = len(running.server.frames)
    status, result = run(running, 6, judge=True)
    assert status == "succeeded" and result.steps == 6, result.message
    wanted = Outcome.OUTCOME_SUCCESS if result.judge_score > 0.5 else Outcome.OUTCOME_FAILURE
    assert result.outcome == wanted
    episode = read_episode(result.episode_path)
    np.testing.assert_allclose(episode.actions, ACTIONS[:6], atol=1e-6)
    assert running.server.instructions[seen:] == ["open the drawer"] * 2
    assert running.server.paths[-3:] == ["/reset", "/act", "/act"]
    # It saw what was logged before either chunk, but for a frame that came while it was asked.
    for asked, logged in zip(running.server.frames[seen:], (episode.frames[0], episode.frames[5])):
        assert asked.shape == (48, 48, 3) and np.abs(asked.astype(float) - logged).mean() < 2.0


def test_a_goal_may_name_any_policy_but_the_token_is_for_the_server_of_the_station_file(running: Running) -> None:
    stranger = PolicyServer(ScriptedPolicy(ACTIONS))
    try:
        for address in (stranger.address, running.server.address):
            status, result = run(running, 2, policy=address)
            assert status == "succeeded" and result.steps == 2, result.message
    finally:
        stranger.end()
    assert stranger.tokens == {None} and running.server.tokens == {"Bearer of-this-station"}
    for wrong in ("/tmp/a\nb", "/" + "x" * 400, "/nobody/knows/it", "/dev/null", "/etc/passwd.npz", "..", "http://a?b"):
        status, result = run(running, 2, policy=wrong)
        assert status == "aborted" and not result.episode_path, wrong
        assert "unexpected" not in result.message and result.message.isprintable(), result.message


def test_an_answer_slower_than_the_control_period_is_waited_for(running: Running) -> None:
    running.server.before = lambda: time.sleep(0.5)
    status, result = run(running, 11)
    assert status == "succeeded" and result.steps == 11, result.message
    folder = Path(result.episode_path).name
    steps = [m for _, m in running.raw.heard["/executor/step"] if m.episode_id == folder]
    sent = np.array([m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in steps])
    gaps = np.diff(sent)
    assert min(gaps[[4, 9]]) > 0.45 and min(m.policy_latency for m in (steps[0], steps[5], steps[10])) > 0.45
    assert np.delete(gaps, [4, 9]).min() > 0.1  # what was late is not made up for by a burst


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>teapot</html>", "answered no JSON"),
        (json.dumps((ACTIONS[:5] * np.nan).tolist()).encode(), "found nan at step 0, dimension 0"),
        (json.dumps(ACTIONS[:5, :6].tolist()).encode(), "found shape (5, 6)"),
        (json.dumps(ACTIONS[:3].tolist()).encode(), "answered 3 actions, needed 5"),
    ],
)
def test_an_answer_that_is_none_ends_the_episode_with_the_arm_held(running: Running, answer: bytes, words: str) -> None:
    count = itertools.count()
    running.server.spoil = lambda actions: answer if next(count) else None  # from the second chunk on
    status, result = run(running, 40)
    ended = time.monotonic()
    assert status == "aborted" and result.outcome == Outcome.OUTCOME_ABORTED and result.steps == 5
    assert words in result.message and "the arm holds" in result.message and "\n" not in result.message
    assert not read_episode(result.episode_path).complete
    if "nan" in words:
        assert_held(running.raw, ended)


def test_a_server_that_goes_and_comes_back(running: Running) -> None:
    task = running.station.run_episode("open the drawer", max_steps=60, judge=False)
    wait_until(lambda: task.feedback is not None and task.feedback.step >= 2, 20.0, "steps")
    port = running.server.server_port
    running.server.end()
    result = task.result(HANG_S)
    ended = time.monotonic()
    assert result.outcome == Outcome.OUTCOME_ABORTED and result.steps == 5
    assert "no policy server answers" in result.message and "\n" not in result.message
    status, refused = run(running, 6)
    assert status == "aborted" and refused.steps == 0 and "no policy server answers" in refused.message
    assert_held(running.raw, ended)
    running.server = PolicyServer(ScriptedPolicy(ACTIONS), port)
    running.station.reset_arm()
    status, result = run(running, 6)
    assert status == "succeeded" and result.steps == 6, result.message


def test_a_server_that_hangs_does_not_keep_an_episode_from_being_cancelled(running: Running) -> None:
    hanging, mended = threading.Event(), threading.Event()
    running.server.before = lambda: hanging.set() or mended.wait(20.0)  # type: ignore[func-returns-value]
    task = running.station.run_episode("open the drawer", max_steps=60, judge=False)
    assert hanging.wait(20.0)
    again = None
    try:
        began = time.monotonic()
        assert task.cancel(5.0) and in_time(1.0, began)
        assert task.result().outcome == Outcome.OUTCOME_CANCELLED
        # The next one waits for the server, can be cancelled meanwhile too, and works once it answers.
        again = running.station.run_episode("open the drawer", max_steps=6, judge=False)
        time.sleep(0.3)
        began = time.monotonic()
        assert again.cancel(5.0) and in_time(1.0, began)
    finally:
        mended.set()
    status, result = run(running, 6)
    assert status == "succeeded" and result.steps == 6, result.message

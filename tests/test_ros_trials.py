"""Trials over a real graph: of policies here and elsewhere, whoever is killed, a judge that must answer first, resets
that are looked at, and a person who comes late."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.openai_server import Server
from gymnast_core.data.episode import read_header
from gymnast_core.data.outcome import FAILURE
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import StationError
from gymnast_core.evaluation.comparison import read_tried
from gymnast_core.evaluation.person import SLACK, WEBHOOK
from gymnast_core.evaluation.session import read_records
from gymnast_core.policy.scripted import ScriptedPolicy
from gymnast_core.policy.server_tokens import lend_tokens
from gymnast_nodes.client import GoalNotTaken, Station, Task
from tests.hooks import Hooks
from tests.machine import HANG_S
from tests.policy_server import PolicyServer
from tests.ros_tools import Process, process_of, running_station, wait_until
from tests.tiny_station import build_tiny_station, put_on_graph

ACTIONS = np.tile(np.float32([0, 0, 0.002, 0, 0, 0, 1]), (40, 1))
STEPS = 3


@dataclass
class Running:
    """A graph whose scene the opposite task resets, or a person; the servers of its policy and judge; its webhooks."""

    graph: Process
    station: Station
    file: Path
    server: PolicyServer
    judge: Server
    hooks: Hooks


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = build_tiny_station(tmp_path_factory.mktemp("station"), simulated=True)
    server, hooks = PolicyServer(ScriptedPolicy(ACTIONS)), Hooks()
    judge = Server()
    names = ("open_drawer", "close_drawer")
    tasks = {
        name: {"instruction": name.replace("_", " the "), "max_steps": STEPS, "reset_task": undo,
               "reset_policy": server.address}
        for name, undo in zip(names, reversed(names))
    }  # fmt: skip
    evaluation = {"reset": "task", "reset_attempts": 2, "person_timeout_s": 1.0, "look_cleared": True}
    evaluation |= {"rest": {"every_s": 2.0, "seconds": 0.3, "torque": "off"}, "reset_check": True}
    asking = {"kind": "vlm", "base_url": judge.url, "votes": 1, "timeout_s": 5.0, "stride": 10}
    models = {"policy_token_env": {server.address: "OF_THE_RESET"}}
    put_on_graph(path, evaluation=evaluation, tasks=tasks, judge=asking, models=models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OF_THE_RESET", "of-the-reset")
        patch.setenv(WEBHOOK, hooks.address("/json"))
        patch.setenv(SLACK, hooks.address("/slack"))
        with running_station(path, without=("adapter",)) as (graph, _, station):
            yield Running(graph, station, path, server, judge, hooks)
    server.end()
    judge.close()
    hooks.end()


class Person(threading.Thread):
    """Comes whenever it is called, brings the scene to its start, and says so."""

    def __init__(self, running: Running) -> None:
        super().__init__(daemon=True)
        self._running = running

    def run(self) -> None:
        while call := self._running.hooks.calls["/json"].get():
            with contextlib.suppress(StationError):  # whoever called may have been killed meanwhile
                self._running.station.reset_scene(call["task"], 1)
                self._running.station.scene_is_reset()


def renew_evaluator(running: Running) -> None:
    """An evaluator that remembers no answer of the judge: the one that is started for a killed one."""
    killed = process_of("evaluator", running.graph)
    os.kill(killed, signal.SIGKILL)

    def respawned() -> bool:
        with contextlib.suppress(pytest.fail.Exception):
            return process_of("evaluator", running.graph) != killed
        return False

    wait_until(respawned, HANG_S, "an evaluator")


def begin_trial(running: Running, on_feedback: Callable[[Any], None]) -> Task:
    """A trial, asked for until the evaluator takes it."""
    began = time.monotonic()
    while True:
        try:
            return running.station.run_trials("close_drawer", 1, max_steps=STEPS, on_feedback=on_feedback)
        except GoalNotTaken:
            assert time.monotonic() - began < HANG_S
            time.sleep(0.5)


def test_no_trial_begins_before_the_judge_answers_and_the_refusal_of_a_key_is_one_line(running: Running) -> None:
    refusal = json.dumps({"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
    renew_evaluator(running)
    running.judge.script = lambda n, request: (401, refusal)
    before = len(running.judge.requests)
    running.station.reset_scene("close_drawer", 1)
    phases: list[str] = []
    result = begin_trial(running, lambda heard: phases.append(heard.phase)).result(HANG_S)
    assert not result.success and not len(result.outcomes) and set(phases) <= {"check"}, "the arm stands"
    assert "no trial begins, the judge does not answer" in result.message and "Incorrect API key" in result.message
    assert "\n" not in result.message and len(running.judge.requests) == before + 1
    running.judge.script = lambda n, request: "Final Score: 1"


def test_where_the_opposite_task_fails_a_person_is_called_with_a_picture_and_waited_for(running: Running) -> None:
    """The policy that shall open the drawer does not, so a person must. One who does not come pauses the trials."""
    running.hooks.forget()
    running.station.reset_scene("open_drawer", 1)  # the drawer is shut
    phases: list[str] = []
    task = running.station.run_trials(  # of 2.4 s and more: a rest is due after the first
        "close_drawer", 2, max_steps=12, on_feedback=lambda heard: phases.append(heard.phase)
    )
    first, again = (running.hooks.calls["/json"].get(timeout=HANG_S) for _ in range(2))
    assert not first["paused"] and again["paused"] and first["task"] == "close_drawer"
    assert f"reset by 'open_drawer' ({running.server.address}): failure (after 2 attempts)" in first["reason"]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(first["picture"]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (120, 160, 3)
    assert "paused" in [running.hooks.calls["/slack"].get(timeout=HANG_S)["text"] for _ in range(2)][1]
    assert not task.is_complete()
    running.station.reset_scene("close_drawer", 1)
    assert first["ready"] == again["ready"] and first["ready"].startswith(first["page"])
    assert urllib.request.urlopen(again["ready"], timeout=HANG_S).status == 200
    result = task.result(HANG_S)
    assert result.success and len(result.outcomes) == 2, result.message
    seen = [phase for phase, _ in itertools.groupby(phases)]
    assert seen.index("person") < seen.index("run") and seen.count("person") == 1
    assert "rest" in seen, "when depends on how long the arm has worked"
    records = read_records(Path(result.run_folder))
    by_person, undone = (record.reset for record in records)
    assert (by_person.method, by_person.confirmed_by, by_person.attempts) == ("person", "a link", 3)
    assert len(by_person.failures) == 2 and all("failure" in why for why in by_person.failures)
    assert undone.attempts == 1 and undone.check == "reset check: the station's truth says that 'open_drawer' is done"
    for record in records:
        assert record.truth is not None and record.judge_score is not None, record.message
        assert read_header(Path(record.episode_path))["metadata"]["judge_saw"] == "cleared.png"
        assert read_image(Path(record.episode_path) / "cleared.png").shape == (48, 48, 3)
    page = (Path(result.run_folder) / "report.html").read_text()
    assert "2 of 2 trials" in page and "data:image/jpeg" in page
    assert running.server.tokens == {"Bearer of-the-reset"}, "the station file names this server's token"


def test_the_executor_sends_a_server_the_token_that_a_running_command_lends_for_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Path(f"/proc/{running.graph.process.pid}/environ").read_text().split("\0")
    state = next(entry for entry in environment if entry.startswith("GYMNAST_STATE="))
    monkeypatch.setenv(*state.split("=", 1))
    other = PolicyServer(ScriptedPolicy(ACTIONS))

    def act() -> set[str | None]:
        other.tokens.clear()
        running.station.run_episode("open the drawer", other.address, max_steps=1, judge=False).result(HANG_S)
        return set(other.tokens)

    with lend_tokens({other.address: "of-a-job"}):
        assert act() == {"Bearer of-a-job"}
    assert act() == {None}
    other.end()


def test_trials_go_on_when_the_evaluator_is_killed_in_the_middle_of_one(running: Running, tmp_path: Path) -> None:
    running.hooks.forget()
    person = Person(running)
    person.start()
    asked: list[int] = []

    def kill_in_an_episode() -> None:
        asked.append(1)
        if len(asked) == 3:  # the first answer is a test of the connection
            os.kill(process_of("evaluator", running.graph), signal.SIGKILL)

    running.server.before = kill_in_an_episode
    policies = ("base", running.server.address)
    result = running.station.compare(
        str(running.file), policies, tasks=["open_drawer"], trials=2, max_steps=STEPS, run=str(tmp_path / "run")
    )
    running.hooks.calls["/json"].put({})
    assert result.success and result.done == 4, result.message
    records = read_records(tmp_path / "run")
    assert [record.trial for record in records] == list(range(4)) and sum(one.attempts for one in records) == 5
    assert all(record.outcome == FAILURE and record.truth is False for record in records)
    tried = read_tried(tmp_path / "run")
    assert len({tuple(one.record.seed for one in tried if one.policy == name) for name in policies}) == 1
    for record in records:
        assert read_header(Path(record.episode_path))["metadata"]["policy"] == record.policy
    assert (tmp_path / "run" / "report.html").is_file()
    wait_until(lambda: not person.is_alive(), HANG_S, "the person goes home")

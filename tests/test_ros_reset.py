"""Resets that are looked at: the station's truth first, then a real judge's answer; wrong ones are tried again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy.task
import stamina
import yaml
from builtin_interfaces.msg import Time

from benchmarks.openai_server import Server
from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import StationError
from gymnast_core.evaluation.rest import Rests
from gymnast_core.rollout.station_actor import StationActor
from gymnast_nodes.messages import frame_to_image
from gymnast_nodes.ros_bench import RosBench
from gymnast_nodes.scene_reset import SceneReset
from tests.tiny_station import build_tiny_station, picture

TASK = "open_drawer"


class Service:
    """A service that answers at once, and keeps what it was asked."""

    srv_name = "there"

    def __init__(self, **answer: Any) -> None:
        self.answer = {"success": True, "message": "", **answer}
        self.asked: list[Any] = []
        self.fails_first = 0
        """Requests that are refused for something that passes."""

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, request: Any) -> Any:
        self.asked.append(request)
        future: Any = rclpy.task.Future()
        passing = {"success": False, "message": "the driver was silent and is being checked"}
        future.set_result(
            SimpleNamespace(**(self.answer | passing if len(self.asked) <= self.fails_first else self.answer))
        )
        return future


class Judge:
    """The station's real judge, asked without a thread in between."""

    def __init__(self, station: StationConfig, path: Path, answers: Path) -> None:
        self._actor = StationActor(station, path, answers)

    def see(self, bench: Bench) -> Any:
        return picture(len(bench.clients.reset_scene.asked))

    def ask(self, goal: Any, question: Any) -> Any:
        return question(self._actor)

    def answered(self) -> None: ...


class Bench:
    """A real station whose services answer at once. truths: what it knows at each look, where it has a truth."""

    def __init__(self, path: Path, answers: Path, **evaluation: Any) -> None:
        station = load_config(StationConfig, path)
        station = replace(station, simulation=None, evaluation=replace(station.evaluation, **evaluation))
        log = logging.getLogger("reset")
        node = SimpleNamespace(get_logger=lambda: log, get_fully_qualified_name=lambda: "/evaluator")
        self.called: list[str] = []

        def person(goal: Any, call: Any, on_wait: Any) -> str:
            self.called.append(call.reason)
            return "the page"

        self.clients: Any = SimpleNamespace(
            node=node, station=station, scene=None, reference_view=None, judge=Judge(station, path, answers),
            reset_arm=Service(), reset_scene=Service(), rest_arm=Service(), rests=Rests(station.evaluation.rest),
            person=person,
        )  # fmt: skip
        self.goal: Any = SimpleNamespace(cancelled=False, sleep_until=lambda moment: None)
        self.resets_itself = True
        self.truths: list[bool] = []

    def truth(self, task: str) -> bool | None:
        return self.truths.pop(0) if self.truths else None

    def capture(self) -> Any:
        return SimpleNamespace(image=frame_to_image(picture(), Time(), "camera"))

    def reset(self, phases: list[str] | None = None) -> Any:
        return SceneReset(self, (phases if phases is not None else []).append)(TASK, 3)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with stamina.set_testing(True, attempts=2, cap=True):
        yield server
    server.close()


@pytest.fixture
def station(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # where answers are cached
    path = build_tiny_station(tmp_path / "station", simulated=True)
    content = yaml.safe_load(path.read_text())
    content["judge"] = {"kind": "vlm", "base_url": server.url, "votes": 1, "timeout_s": 5.0}
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_scene_that_the_judge_finds_wrong_is_reset_again_and_why_is_kept(server: Server, station: Path) -> None:
    bench = Bench(station, station.parent, reset_check=True)
    server.script = lambda n, request: ["Final Score: 1", "Final Score: 0"][n]
    report = bench.reset()
    assert (report.attempts, report.method) == (2, "station") and not bench.called
    assert report.failures == (f"reset check: the judge says that '{TASK}' is done",)
    assert report.check == f"reset check: the judge says that '{TASK}' is not done"
    assert len(bench.clients.reset_scene.asked) == len(bench.clients.reset_arm.asked) == 2


def test_an_abstention_and_a_judge_that_is_gone_reset_nothing_again(server: Server, station: Path) -> None:
    bench = Bench(station, station.parent, reset_check=True)
    answers: list[Any] = ["I cannot tell", (401, "no"), "Final Score: 0"]
    server.script = lambda n, request: answers[n]
    reports = [bench.reset() for _ in answers]
    assert [report.attempts for report in reports] == [1, 1, 1] and not any(report.failures for report in reports)
    assert "abstained" in reports[0].check and "did not answer" in reports[1].check
    quiet = Bench(station, station.parent)
    assert quiet.reset().check == "" and len(server.requests) == 3, "nobody is asked where nobody looks"


def test_the_stations_truth_is_preferred_and_a_person_outranks_the_judge_but_not_the_truth(
    server: Server, station: Path
) -> None:
    bench = Bench(station, station.parent, reset_check=True, reset_attempts=2)
    bench.truths = [True, False]
    report = bench.reset()
    assert report.attempts == 2 and "the station's truth" in report.failures[0] and not server.requests
    bench.truths = [True, True, True, False]  # twice by the station, twice after a person came
    report = bench.reset()
    assert (report.attempts, report.method, report.confirmed_by) == (4, "person", "the page")
    assert len(bench.called) == 1 and "(after 2 attempts)" in bench.called[0]
    report = bench.reset()  # always done, says the judge, and a person disagrees
    assert (report.attempts, report.method) == (3, "person") and len(server.requests) == 2


def test_an_arm_that_cannot_be_let_go_rests_standing_and_one_that_cannot_stand_does_not_rest(station: Path) -> None:
    rest = replace(load_config(StationConfig, station).evaluation.rest, every_s=1.0, seconds=0.1, torque="off")
    bench = Bench(station, station.parent, rest=rest)
    phases: list[str] = []
    bench.clients.rests.work(2.0)
    bench.reset(phases)
    assert phases == ["rest", "reset"] and len(bench.clients.rest_arm.asked) == 1 and not bench.clients.rests.due
    bench.clients.rest_arm.answer.update(success=False, message="the driver did not let go")
    bench.clients.rests.work(2.0)
    before = len(bench.clients.reset_arm.asked)
    bench.reset(phases)
    assert len(bench.clients.reset_arm.asked) == before + 2 and not bench.clients.rests.due
    bench.clients.rests.work(2.0)
    bench.clients.reset_arm.answer.update(success=False, message="the arm is stopped")

    def nobody(*call: Any) -> str:
        raise KeyboardInterrupt

    bench.clients.person = nobody
    with pytest.raises(KeyboardInterrupt):
        bench.reset(phases)
    assert bench.clients.rests.due, "it rests once it can"


def test_a_simulated_station_that_resets_itself_ends_with_the_reason(station: Path) -> None:
    bench = Bench(station, station.parent, reset_check=True, reset_attempts=2)
    bench.clients.station = replace(bench.clients.station, simulation=load_config(StationConfig, station).simulation)
    bench.truths = [True, True]
    with pytest.raises(StationError, match=r"the station's truth says that 'open_drawer' is done \(after 2 attempts"):
        bench.reset()


def test_the_arm_is_brought_to_its_start_again_where_what_hinders_it_passes(station: Path) -> None:
    """As before an episode is judged from a cleared scene: else it would stay unjudged."""
    bench = Bench(station, station.parent, reset_attempts=2)
    arm = bench.clients.reset_arm
    visit = RosBench(bench.clients, bench.goal).visit
    arm.fails_first = 1
    visit(None)
    assert len(arm.asked) == 2
    arm.fails_first = 10
    with pytest.raises(StationError, match="arm reset: the driver was silent"):
        visit(None)
    assert len(arm.asked) == 4


def test_a_moved_camera_and_other_light_call_a_person_before_an_episode_begins(station: Path) -> None:
    scene = np.kron(picture(1), np.ones((4, 4, 1), np.uint8))
    views = [np.roll(scene, 8, 1), (scene * 0.5).astype(np.uint8), scene]
    bench = Bench(station, station.parent)
    bench.clients.reference_view = scene
    bench.capture = lambda: SimpleNamespace(image=frame_to_image(views[0], Time(), "camera"))  # type: ignore[method-assign]
    called: list[str] = []
    shown: list[tuple[int, ...]] = []

    def person(goal: Any, call: Any, on_wait: Any) -> str:
        called.append(call.reason)
        shown.append(call.picture.shape)
        views.pop(0)  # puts the camera back; then switches the light on
        return "the page"

    bench.clients.person = person
    report = bench.reset()
    moved, dark = called
    assert moved.startswith("camera view: shifted by 4.2% of its width, allowed is 1.0%")
    assert dark.startswith("camera view: darker by ") and "allowed are 40" in dark
    assert report.attempts == 3 and report.failures == (moved, dark)
    assert shown == [(192, 3 * 192, 3)] * 2, "reference, live, both in one"

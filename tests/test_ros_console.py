"""The console beside a real graph: a practice from its buttons, the stop in the midst of an episode, a person's answer;
over HTTP, as the page asks for it, and by the page itself in headless Chromium where there is one.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnast_msgs.msg import ArmState, BridgeAction

from gymnast_core.data.outcome import OUTCOMES
from gymnast_core.data.pictures import read_image
from gymnast_nodes.client import Station
from tests.browser import browser, keep, opened
from tests.domains import free_domain
from tests.machine import HANG_S, allowed, overdue
from tests.ros_tools import (
    Client,
    Process,
    assert_held,
    process_of,
    start_graph,
    wait_active,
    wait_until,
)
from tests.tiny_station import INSTRUCTION, build_tiny_station, let_practice_succeed, put_on_graph

TOKEN = "of-this-console"
VARIABLE = "GYMNAST_CONSOLE_TOKEN"
SERVING = re.compile(r"\[console\] serving on http://127\.0\.0\.1:(\d+)")


class Page:
    """What a page does: looks, and presses buttons."""

    def __init__(self, graph: Process, client: Client, station: Station) -> None:
        self.graph, self.client, self.station = graph, client, station
        self.port = int(wait_until(lambda: SERVING.search(graph.output), 60.0, "a console")[1])

    def ask(self, method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        link.request(method, path, None if body is None else json.dumps(body), headers)
        answer = link.getresponse()
        content = answer.read()
        link.close()
        return answer.status, json.loads(content) if answer.headers["Content-Type"] == "application/json" else content

    def press(self, name: str, **order: Any) -> dict[str, Any]:
        status, content = self.ask("POST", f"/api/{name}", order)
        assert status == 200, content
        return content

    @property
    def state(self) -> dict[str, Any]:
        return self.ask("GET", "/api/state")[1]

    @property
    def records(self) -> dict[str, Any]:
        return self.ask("GET", "/api/records")[1]

    @property
    def said(self) -> list[str]:
        return [line["text"] for line in self.state["said"]]

    def wait_for_words(self, pattern: str, seconds: float) -> str:
        """A line of those said here that matches."""
        return wait_until(
            lambda: next((line for line in self.said if re.search(pattern, line)), None), seconds, f"'{pattern}'"
        )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("console")
    path = build_tiny_station(folder, simulated=True)
    let_practice_succeed(path)
    evaluation = {"reset": "person", "person_timeout_s": 1.0}
    tasks = {"open_drawer": {"instruction": INSTRUCTION, "max_steps": 300}}
    put_on_graph(path, console={"port": 0}, evaluation=evaluation, tasks=tasks)
    domain = free_domain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, TOKEN)
        graph = start_graph(domain, path, console=True)
    client = Client(domain)
    station = Station(domain=domain)
    try:
        wait_active(client, graph)
        client.listen(ArmState, "/arm/state")
        client.listen(BridgeAction, "/arm/action")
        yield Page(graph, client, station)
    finally:
        station.close()
        client.close()
        graph.end()


def test_a_practice_begun_on_the_page_asks_a_person_is_watched_and_ends(page: Page) -> None:
    assert page.ask("POST", "/api/practise", {"task": "open_drawer"}, token="nobody's")[0] == 401
    before = (page.records["practice"] or {}).get("name")
    page.press("practise", task="open_drawer", reset=True, execute=False, iterations=2)
    question = wait_until(lambda: page.state["question"], 60.0, "a question on the page")
    assert [work["kind"] for work in page.state["work"]] == ["practise"]
    assert page.ask("POST", "/api/answer", {"question": "another one"})[0] == 409
    assert page.press("answer", question=question)["message"] == "answered: it is done"
    wait_until(lambda: not page.state["question"], 10.0, "an end of the question")

    def filmed() -> bool:
        practice = page.records["practice"] or {}
        return practice.get("name") != before and practice.get("film_count", 0) > 0

    wait_until(filmed, 120.0, "films on the page")
    ended = page.wait_for_words("^practice of 'open_drawer' (succeeded|aborted)", 180.0)
    assert "succeeded" in ended, ended

    def recorded() -> Any:
        practice = page.records["practice"]
        return practice if len(practice["curve"]) == 2 and practice["result"] and not page.state["work"] else None

    practice = wait_until(recorded, 10.0, "what came of the practice")
    assert practice["result"]["message"]
    status, strip = page.ask("GET", f"/api/film/{practice['name']}/{practice['films'][-1]['film']}")
    assert status == 200 and strip[:3] == b"\xff\xd8\xff"


def test_the_stop_in_the_midst_of_an_episode_holds_the_arm_until_it_is_re_armed_twice(page: Page) -> None:
    page.press("run", task="open_drawer")
    wait_until(lambda: any(work["step"] >= 3 for work in page.state["work"]), 60.0, "steps of an episode")
    pressed = time.monotonic()
    status, answer = page.ask("POST", "/api/stop", {}, token="nobody's")
    took = time.monotonic() - pressed
    assert status == 200 and answer["message"] == "stopped: held and latched"
    assert took <= allowed(0.1, pressed), f"the stop took {took:.3f} s"
    assert_held(page.client, pressed)
    assert page.state["status"]["arm"]["mode"] == "stopped" and page.state["status"]["stops"]
    page.wait_for_words("^episode of base at 'open_drawer' aborted", 30.0)
    assert page.client.latest("/arm/state").mode == ArmState.MODE_STOPPED
    first = page.press("rearm")
    assert page.client.latest("/arm/state").mode == ArmState.MODE_STOPPED
    assert page.press("rearm", confirm=first["confirm"])["message"].startswith("armed")
    wait_until(lambda: not page.state["status"]["stops"], 10.0, "a released stop")


def test_in_a_browser_a_practice_is_begun_watched_to_its_end_and_an_episode_stopped_midway(
    page: Page, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{page.port}/#token={TOKEN}"
    with browser() as chromium, opened(chromium, address) as seen:

        def shows(place: str, pattern: str, seconds: float) -> None:
            began = time.monotonic()
            while not re.search(pattern, seen.inner_text(place)):
                assert not overdue(seconds, began), f"{place}: {seen.inner_text(place)!r} has no {pattern!r}"
                seen.wait_for_timeout(100)

        seen.wait_for_selector("#practise:enabled")
        for box in ("#reset", "#execute"):  # nobody is called, and the arm stays
            seen.uncheck(box)
        before = len(page.said)
        seen.select_option("#task", "open_drawer")
        seen.fill("#iterations", "2")
        seen.click("#practise")
        shows("#doing", "practise", 60.0)
        shows("#verdicts", "[1-9][0-9]* films", 120.0)
        wait_until(lambda: any("succeeded" in line for line in page.said[before:]), 180.0, "the end of a practice")
        shows("#outcome", "success in imagination", 20.0)
        assert seen.locator("#films .film").count() >= 6 and seen.locator("#curve svg path.line").count() == 2
        keep(seen, "practised", tmp_path)
        seen.click("#run")
        shows("#doing", "step\\s+([3-9]|[1-9][0-9])", 60.0)
        pressed = time.monotonic()
        seen.click("#stop")
        wait_until(lambda: page.client.latest("/arm/state").mode == ArmState.MODE_STOPPED, 5.0, "a stopped arm")
        assert_held(page.client, pressed)
        shows("#stopped", "^stopped: the console's stop button", 10.0)
        keep(seen, "stopped", tmp_path)
        seen.click("#rearm")
        seen.click("#yes")
        shows("#told", "rearm: armed", 30.0)


def test_what_is_under_way_is_cancelled_whoever_began_it_and_pictures_come_while_somebody_looks(page: Page) -> None:
    assert page.press("reset")["message"] == "the arm is at its start"
    wait_until(lambda: page.ask("GET", "/api/picture/camera")[0] == 200, 20.0, "a picture")
    task = page.station.run_episode(INSTRUCTION, task="open_drawer", max_steps=300)
    wait_until(lambda: any(work["kind"] == "run" for work in page.state["work"]), 30.0, "somebody else's episode")
    wait_until(lambda: page.ask("GET", "/api/picture/policy")[0] == 200, 30.0, "the policy's picture")
    assert page.ask("POST", "/api/reset", {})[0] == 409
    assert "run" in page.press("cancel")["message"]
    assert OUTCOMES[task.result(30.0).outcome] == "cancelled"
    wait_until(lambda: not page.state["work"], 10.0, "an end on the page")
    assert page.ask("POST", "/api/cancel", {}) == (409, {"detail": "nothing is under way"})
    frame = page.press("capture")["message"].removeprefix("captured ")
    assert read_image(Path(frame)).shape == (120, 160, 3)
    assert set(page.state["temperatures"]) >= {"waist", "gripper", "elbow_shadow"}


def test_the_graph_goes_on_without_its_console(tmp_path: Path) -> None:
    """With a graph of its own: a console that was killed stays away."""
    path = build_tiny_station(tmp_path, simulated=True)
    put_on_graph(path, console={"port": 0})
    domain = free_domain()
    graph = start_graph(domain, path, ("camera", "recorder", "adapter", "executor", "evaluator"), console=True)
    client = Client(domain)
    try:
        wait_until(lambda: SERVING.search(graph.output), 60.0, "a console")
        wait_active(client, graph)
        os.kill(process_of("console", graph), signal.SIGKILL)
        told = "console ended with exit code -9; the graph goes on without it"
        wait_until(lambda: told in graph.output, 10.0, "what is said of a killed console")
        wait_active(client, graph)
    finally:
        client.close()
        graph.end()


def test_without_fastapi_the_console_says_so_in_one_line_and_ends_well() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from gymnast_nodes.console_node import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "gymnast[serve]" in done.stderr and "the graph goes on without it" in done.stderr

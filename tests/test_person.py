"""A person who is called: told what to do and why, waited for as long as it takes, whatever the webhooks do."""

from __future__ import annotations

import base64
import json
import queue
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.config import PersonPageConfig, RestConfig
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.person import SLACK, WEBHOOK, Call, OpenCall, Webhook, call_person, webhooks
from gymnast_core.evaluation.rest import Rests
from gymnast_core.serve.person_page import PersonPage
from tests.hooks import Hooks
from tests.machine import HANG_S
from tests.tiny_station import picture

CALL = Call("lab", "open_drawer", "shut the drawer", "arm reset: <stuck> & silent", picture())


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hooks]:
    made = Hooks()
    monkeypatch.setenv(WEBHOOK, made.address("/json"))
    monkeypatch.setenv(SLACK, made.address("/slack"))
    yield made
    made.end()


def test_a_call_says_what_to_do_and_why_and_a_person_who_is_late_is_called_again(hooks: Hooks) -> None:
    said: list[Call] = []
    warned: list[str] = []
    answers = iter([False, False, False, True])
    waited = call_person(CALL, webhooks(), lambda seconds: next(answers), 1e-9, said.append, warned.append)
    calls, slacks = ([hooks.calls[path].get(timeout=HANG_S) for _ in range(4)] for path in ("/json", "/slack"))
    assert not warned and waited >= 0 and sorted(call["paused"] for call in calls) == [False, True, True, True]
    assert {(call["station"], call["task"], call["text"], call["reason"]) for call in calls} == {
        (CALL.station, CALL.task, CALL.text, CALL.reason)
    }
    sent = np.frombuffer(base64.b64decode(calls[0]["picture"]), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(sent, cv2.IMREAD_COLOR)[..., ::-1], CALL.picture)
    assert all(slack.keys() == {"text"} and "&lt;stuck&gt; &amp; silent" in slack["text"] for slack in slacks)
    assert str(said[0]) == "shut the drawer (arm reset: <stuck> & silent)" and str(said[1]).startswith("paused: ")


def test_a_webhook_that_refuses_is_a_warning_without_its_address_and_one_that_hangs_keeps_nobody_waiting(
    hooks: Hooks,
) -> None:
    hooks.status = 500
    warned: queue.SimpleQueue[str] = queue.SimpleQueue()
    call_person(CALL, webhooks(), lambda seconds: True, 900.0, lambda words: None, warned.put)
    told = [warned.get(timeout=HANG_S) for _ in range(2)]
    assert told == ["the webhook at 127.0.0.1 took no call: answered 500"] * 2
    hooks.goes_on.clear()
    call_person(CALL, webhooks(), lambda seconds: True, 900.0, lambda words: None, warned.put)
    gone = Webhook("http://127.0.0.1:9/secret")
    assert "secret" not in gone.send(CALL).problem and "took no call" in gone.send(CALL).problem


def test_a_webhook_answers_its_own_call_where_it_says_ready_and_nothing_else(hooks: Hooks) -> None:
    opened = OpenCall()
    for hooks.reply in (b"ok", b"", b'{"ready": "true"}', b'[{"ready": true}]', b'{"ready": false}', b"{"):
        heard = Webhook(hooks.address("/json")).send(CALL)
        assert not heard.ready and not heard.problem, hooks.reply
    hooks.reply = b'{"ready": true}'
    ticket = opened.begin(CALL)
    said: list[str] = []

    def ready(how: str) -> None:
        said.append(how)
        opened.answer(how, ticket)

    call_person(CALL, webhooks(), opened.came.wait, 900.0, lambda now: None, pytest.fail, ready)
    assert opened.answered_by == "the webhook at 127.0.0.1" and said == [opened.answered_by]
    assert not Webhook(hooks.address("/slack"), slack=True).send(CALL).ready


def test_what_ends_the_wait_ends_it_at_once() -> None:
    def cancelled(seconds: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_person(CALL, [], cancelled, 900.0, lambda words: None, pytest.fail)


def test_a_wrong_address_is_named_by_its_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLACK, "hooks.slack.com/services/T0/secret")
    with pytest.raises(ConfigError, match=f"{SLACK}: no http:// or https:// in front") as told:
        webhooks()
    assert "secret" not in str(told.value)


@given(st.lists(st.floats(0.0, 100.0), max_size=30), st.floats(1.0, 200.0))
def test_an_arm_rests_after_as_much_work_as_the_file_says(episodes: list[float], limit: float) -> None:
    rests, since = Rests(RestConfig(limit, 5.0)), 0.0
    never = Rests(RestConfig())
    for seconds in episodes:
        rests.work(seconds)
        never.work(seconds)
        since += seconds
        assert (rests.due == 5.0) == (since >= limit) and never.due == 0.0
        if rests.due:
            rests.rested()
            since = 0.0


class Browser:
    """Asks a person's page."""

    def __init__(self, page: PersonPage) -> None:
        self.page = page

    def ask(self, address: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(address, data, {**kind, **headers})
        try:
            with urllib.request.urlopen(request, timeout=HANG_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def call(self) -> dict[str, object]:
        told: dict[str, object] = json.loads(self.ask(f"{self.page.address}call")[1])
        return told


@pytest.fixture
def browser() -> Iterator[Browser]:
    page = PersonPage(PersonPageConfig(), OpenCall())
    yield Browser(page)
    page.close()


def test_the_page_shows_the_call_and_its_button_or_link_answers_that_call_alone(browser: Browser) -> None:
    page, opened = browser.page, browser.page._open
    assert browser.call() == {} and b"The scene is ready" in browser.ask(page.address)[1]
    first = opened.begin(CALL)
    told = browser.call()
    assert told["text"] == CALL.text and told["reason"] == CALL.reason and told["ticket"] == first
    sent = cv2.imdecode(np.frombuffer(browser.ask(f"{page.address}picture/{first}")[1], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(sent[..., ::-1], CALL.picture)
    assert browser.ask(page.ready_at(first), **{"Sec-Purpose": "prefetch;prerender"})[0] == 503
    assert browser.ask(page.ready_at("guess"), {})[0] == 410 and not opened.came.is_set()
    assert browser.ask(page.ready_at(first), {})[0] == 200 and opened.came.is_set()
    assert opened.answered_by == "the page" and browser.call() == {}
    assert browser.ask(page.ready_at(first))[0] == 200 and opened.answered_by == "the page", "the first answer counts"
    opened.end()
    second = opened.begin(CALL)
    assert browser.ask(page.ready_at(first))[0] == 410 and not opened.came.is_set()
    assert browser.ask(page.ready_at(second))[0] == 200 and opened.answered_by == "a link"


def test_the_page_is_of_this_machine_and_of_those_who_know_its_secret(browser: Browser) -> None:
    page = browser.page
    ticket = page._open.begin(CALL)
    bare = f"http://127.0.0.1:{page.port}/"
    assert [browser.ask(f"{bare}{path}")[0] for path in ("", "call", f"ready/{ticket}", "guess/call")] == [404] * 4
    assert browser.ask(page.ready_at(ticket), Host=f"evil.example:{page.port}")[0] == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.ask(page.ready_at(ticket), {}, **form)[0] == 400 and not page._open.came.is_set()
    elsewhere = socket.socket()
    with pytest.raises(ConnectionRefusedError):  # 127.0.0.2 is another address of this machine
        elsewhere.connect(("127.0.0.2", page.port))
    elsewhere.close()
    with pytest.raises(DataError, match="choose another evaluation"):
        PersonPage(PersonPageConfig(port=page.port), OpenCall())
    named = PersonPage(PersonPageConfig(host="0.0.0.0", address="http://lab-pc:8020/"), OpenCall())
    assert Browser(named).ask(f"http://127.0.0.1:{named.port}/{named._secret}/", Host="lab-pc:8020")[0] == 200
    named.close()
    assert named.address.startswith("http://lab-pc:8020/") and named._secret in named.address


@given(st.lists(st.sampled_from(["right", "stale", "any"]), max_size=6))
def test_the_first_right_answer_counts_and_no_answer_outlives_its_call(answers: list[str]) -> None:
    opened = OpenCall()
    stale = opened.begin(CALL)
    opened.end()
    assert not opened.answer("the service") and not opened.answer("a link", stale)
    ticket = opened.begin(CALL)
    for number, kind in enumerate(answers):
        named = {"right": ticket, "stale": stale, "any": None}[kind]
        assert opened.answer(str(number), named) == (kind != "stale")
    first = next((str(number) for number, kind in enumerate(answers) if kind != "stale"), "")
    assert opened.answered_by == first and opened.came.is_set() == bool(first)

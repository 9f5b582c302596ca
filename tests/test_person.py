"""A person who is called: told what to do and why, waited for as long as it takes, whatever the webhooks do."""

from __future__ import annotations

import base64
import queue
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.config import RestConfig
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.person import SLACK, WEBHOOK, Call, Webhook, call_person, webhooks
from gymnast_core.evaluation.rest import Rests
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
    said: list[str] = []
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
    assert said[0] == "shut the drawer (arm reset: <stuck> & silent)" and said[1].startswith("paused: ")


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
    assert "secret" not in gone.send(CALL) and "took no call" in gone.send(CALL)


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

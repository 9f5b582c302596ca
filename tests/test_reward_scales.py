"""A vision-language model on other scales, over a real loopback: RoboReward's 1 to 5, and log P("True")."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openai_server import Answer, Server
from gymnast_core.config import JudgeConfig, StationConfig, parse_config
from gymnast_core.errors import ConfigError, JudgeError
from gymnast_core.protocols import Judge
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.prompts import TaskQuestion
from gymnast_core.reward.scores import ONE_TO_FIVE, parse_score
from gymnast_core.reward.vlm import VLMJudge


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with stamina.set_testing(True, attempts=3, cap=True):  # no waiting between attempts
        yield server
    server.close()


def videos(n: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, 5, 32, 32, 3), dtype=np.uint8))


def judge(server: Server, scale: str, **fields: Any) -> VLMJudge:
    extra = {name: fields.pop(name) for name in ("questions", "cache", "raw", "template") if name in fields}
    content = {"kind": "vlm", "base_url": server.url, "scale": scale, "timeout_s": 5.0, **fields}
    return VLMJudge(parse_config(JudgeConfig, content, "test"), **extra)


def station(**judging: Any) -> StationConfig:
    return parse_config(
        StationConfig, {"name": "x", "tasks": {"t": {"instruction": "any"}}, "judge": judging}, "x.yaml"
    )


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("ANSWER: 4", 4.0),
        ("ANSWER: 5", 5.0),
        ("**Answer:** 1", 1.0),
        ("The drawer moved half the way.\nANSWER: 3", 3.0),
        ("Final answer: 4/5", 4.0),
        ("ANSWER: 4 out of 5", 4.0),
        ("Score: 2", 2.0),
        ('{"reasoning": "...", "answer": 4}', 4.0),
        ("<answer>4</answer>", 4.0),
        ("5", 5.0),
        ("<think>ANSWER: 5</think>\nANSWER: 2", 2.0),
        ("ANSWER: 0", None),
        ("ANSWER: 6", None),
        ("ANSWER: 3.5", None),
        ("ANSWER: 4/10", None),
        ("ANSWER: 80%", None),
        ("ANSWER: <1..5>", None),
        ("ANSWER: 1-5", None),
        ("ANSWER: 4 or 5", None),
        ("ANSWER: X", None),
        ("ANSWER: 4\nWait, the drawer is closed again.", None),
        ("ANSWER: 2\nANSWER: 4", None),
        ("I give it a 4 for effort.", None),
        ("Final Score: 1", 1.0),
        ("", None),
    ],
)
def test_a_grade_counts_only_where_a_verdict_stands(answer: str, grade: float | None) -> None:
    assert parse_score(answer, ONE_TO_FIVE) == grade


def test_the_mean_of_five_grades_is_held_against_the_threshold_and_tells_progress(server: Server) -> None:
    grades = (3, 4, 5, 4, 4)
    server.script = lambda n, request: f"ANSWER: {grades[n % 5]}"
    (verdict,) = judge(server, "1-5", concurrency=1).judge(videos(), ["open it"])
    assert (verdict.score, verdict.completed, verdict.grade, verdict.progress) == (0.0, False, 4.0, (0.75,))
    assert verdict.confidence == pytest.approx(0.8), "four of five votes are on the verdict's side"
    (verdict,) = judge(server, "1-5", concurrency=1, threshold=3.5).judge(videos(), ["open it"])
    assert verdict.completed is True and verdict.confidence == pytest.approx(0.8)
    sent = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in sent] == ["image_url"] * 5 + ["text"]
    assert sent[-1]["text"].endswith("ANSWER: X") and "open it" in sent[-1]["text"]


def test_votes_without_a_grade_are_left_out_and_never_counted_as_low_ones(server: Server) -> None:
    answers: list[Answer] = ["ANSWER: 5", "I cannot see it.", (503, "down"), "ANSWER: 5", "ANSWER: 7"]
    server.script = lambda n, request: answers[min(n, 2) if n < 5 else n - 2]
    vlm = judge(server, "1-5", concurrency=1)
    (verdict,) = vlm.judge(videos(), ["open it"])
    assert verdict.grade == 5.0 and verdict.completed is True and verdict.confidence == pytest.approx(0.4)
    server.script = lambda n, request: "I cannot see it."
    (verdict,) = vlm.judge(videos(2)[1:], ["open it"])
    assert verdict.score is None and verdict.completed is None and verdict.grade is None and verdict.progress == ()


def test_a_threshold_on_success_asks_for_a_share_of_the_votes(server: Server) -> None:
    server.script = lambda n, request: f"Final Score: {int(n % 5 < 3)}"
    assert judge(server, "0-1", concurrency=1).judge(videos(), ["open it"])[0].completed is True
    (verdict,) = judge(server, "0-1", concurrency=1, threshold=0.8).judge(videos(), ["open it"])
    assert verdict.completed is False and verdict.grade == pytest.approx(0.6)
    assert verdict.confidence == pytest.approx(0.4), "two of five votes agree with it"


# --- log P("True") --------------------------------------------------------------------------------------------------


def first_token(*listed: tuple[str, Any], content: str = "True") -> str:
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in listed]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": content},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]} if top else {"content": []},
    }
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 700, "completion_tokens": 1}})


def test_log_p_true_is_summed_over_its_spellings_and_costs_one_token(server: Server) -> None:
    listed = [("True", math.log(0.5)), ("False", math.log(0.3)), (" true", math.log(0.1)), ("Yes", math.log(0.05))]
    server.script = lambda n, request: (200, first_token(*listed))
    vlm = judge(server, "log_p_true")
    (verdict,) = vlm.judge(videos(), ["open it"])
    assert verdict.completed is True and verdict.grade == pytest.approx(math.log(0.6), abs=1e-5)
    assert verdict.confidence == pytest.approx(0.6, abs=1e-5) and verdict.progress == pytest.approx((0.6,), abs=1e-5)
    assert vlm.spending.tokens == 701
    (request,) = server.requests
    assert request["max_tokens"] == 1 and request["logprobs"] is True and request["top_logprobs"] == 20
    assert request["temperature"] == 1.0, "whether a server tells them before or after temperature makes no difference"
    (verdict,) = judge(server, "log_p_true", threshold=-0.3).judge(videos(), ["open it"])
    assert verdict.completed is False and verdict.confidence == pytest.approx(0.4, abs=1e-5)


def test_a_true_that_is_not_listed_is_as_unlikely_as_can_be_and_another_answer_is_an_abstention(server: Server) -> None:
    def said(*listed: tuple[str, Any], **fields: Any) -> Any:
        server.script = lambda n, request: (200, first_token(*listed, **fields))
        return judge(server, "log_p_true").judge(videos(), ["open it"])[0]

    unlisted = said(("False", math.log(0.98)), ("No", math.log(0.01)))
    assert unlisted.completed is False and unlisted.grade == pytest.approx(math.log(0.01), abs=1e-5)
    other = said(("The", math.log(0.9)), ("True", math.log(0.05)), ("False", math.log(0.01)))
    assert other.score is None and other.grade is None and "begins with 'The'" in other.reason
    assert "0 requests failed" in other.reason
    for damaged in (math.nan, math.inf, 0.5, "x", None, True, [1]):
        assert said(("False", math.log(0.98)), ("True", damaged)).score is None, damaged
    assert said((["True"], -0.1)).score is None and said(("True", -0.01), ("False", -0.01)).score is None
    assert said(("True", -math.inf), ("False", 0)).grade == -30.0
    assert said().score is None


def test_a_server_without_log_probabilities_ends_the_run_at_once(server: Server) -> None:
    with pytest.raises(JudgeError, match=r"gives no log-probabilities \(logprobs\)"):
        judge(server, "log_p_true").judge(videos(6), ["open it"] * 6)
    assert len(server.requests) == 1


def test_a_server_that_lists_fewer_tokens_is_asked_for_fewer_once(server: Server) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        if request["top_logprobs"] > 5:
            return 400, json.dumps({"error": {"message": "top_logprobs must be at most 5"}})
        return 200, first_token(("True", -0.1), ("False", -3.0))

    server.script = script
    assert [one.completed for one in judge(server, "log_p_true").judge(videos(4), ["open it"] * 4)] == [True] * 4
    assert [request["top_logprobs"] for request in server.requests] == [20, 5, 5, 5, 5]


@given(st.lists(st.tuples(st.sampled_from(["True", " false", "the", "?", "FALSE"]), st.floats(0.001, 1.0)), min_size=1))
def test_whatever_is_listed_a_verdict_is_a_bound_that_holds_or_an_abstention(listed: list[tuple[str, float]]) -> None:
    from gymnast_core.reward.scales import TrueScale, grade_of, weigh_tokens

    total = sum(weight for _, weight in listed) * 1.05
    tokens = sorted(((token, math.log(weight / total)) for token, weight in listed), key=lambda one: -one[1])
    share = {
        word: sum(math.exp(value) for token, value in tokens if token.strip().lower() == word)
        for word in ("true", "false")
    }
    grade = grade_of(TrueScale(None), weigh_tokens(tokens), False)
    if sum(share.values()) < 0.5 - 1e-9:
        assert grade is None
    elif sum(share.values()) > 0.5 + 1e-9:
        assert grade is not None and grade <= 0.0
        bound = math.log(share["true"]) if share["true"] else min(tokens[-1][1], math.log(1 - 1 / 1.05))
        assert grade == pytest.approx(bound, abs=1e-5)


# --- prompts, films, sections ---------------------------------------------------------------------------------------


def test_a_prompt_of_the_lab_s_own_is_sent_and_is_another_question(server: Server, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Task {instruction}: {question}Say {so}.\nANSWER: X\n", encoding="utf-8")
    (tmp_path / "station.yaml").write_text("")
    section = {"kind": "vlm", "base_url": server.url, "scale": "1-5", "votes": 1, "prompt": "prompt.txt"}
    server.script = lambda n, request: "ANSWER: 5"
    own = load_judge(station(**section), tmp_path / "station.yaml")
    assert isinstance(own, VLMJudge) and isinstance(own, Judge) and own.tells_progress
    fields = {"votes": 1, "cache": tmp_path, "questions": {"turn {rubric}": TaskQuestion("Is it?")}}
    for template in ("Task {instruction}: {question}Say {so}.", ""):
        judge(server, "1-5", template=template, **fields).judge(videos(), ["turn {rubric}"])
    text, other = (request["messages"][0]["content"][-1]["text"] for request in server.requests)
    assert text == "Task turn {rubric}: Question: Is it?\nSay {so}." and text != other
    for content, told in (
        (b"no place", "found no {instruction}"),
        (b"\xff{instruction}", "not UTF-8"),
        (None, "cannot"),
    ):
        (tmp_path / "prompt.txt").unlink()
        if content is not None:
            (tmp_path / "prompt.txt").write_bytes(content)
        else:
            (tmp_path / "prompt.txt").mkdir()
        with pytest.raises(ConfigError, match=r"judge.prompt: .*prompt.txt: ") as error:
            load_judge(station(**section), tmp_path / "station.yaml")
        assert told in str(error.value)


def test_frames_can_be_shown_as_one_film_of_the_same_pictures(server: Server) -> None:
    server.script = lambda n, request: "ANSWER: 5"
    for shown in ("images", "video"):
        judge(server, "1-5", votes=1, frames_as=shown).judge(videos(), ["open it"])
    pictures, film = (request["messages"][0]["content"][:-1] for request in server.requests)
    (part,) = film
    head, *frames = part["video_url"]["url"].split(",")
    assert part["type"] == "video_url" and head == "data:video/jpeg;base64"
    assert frames == [picture["image_url"]["url"].split(",")[1] for picture in pictures]
    assert base64.b64decode(frames[0]).startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"kind": "vlm", "scale": "1-10"}, "judge.scale: found '1-10'"),
        ({"kind": "vlm", "scale": "1-5", "threshold": 0.5}, "allowed for scale 1-5 is 1 to 5"),
        ({"kind": "vlm", "scale": "log_p_true", "threshold": 0.5}, "allowed for scale log_p_true is -30 to 0"),
        ({"kind": "robometer", "threshold": 4}, "allowed for kind robometer is 0 to 1"),
        ({"kind": "classifier", "threshold": -1}, "allowed for kind classifier is 0 to 1"),
        ({"kind": "truth", "threshold": 0.5}, "judge.threshold"),
        ({"kind": "classifier", "scale": "1-5"}, "judge.scale: found '1-5', which kind classifier does not have"),
        ({"kind": "robometer", "prompt": "mine.txt"}, "judge.prompt: found 'mine.txt'"),
        ({"kind": "vlm", "threshold": "0.5"}, "a number alone"),
        ({"kind": "vlm", "threshold": float("nan")}, "judge.threshold"),
    ],
)
def test_a_section_that_does_not_fit_together_is_one_line(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        station(**section)
    assert told in str(error.value) and str(error.value).startswith("x.yaml: ") and "\n" not in str(error.value)

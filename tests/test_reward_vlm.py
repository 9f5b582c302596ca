"""The VLM judge against a real server on the loopback: messy answers, faults, limits, cache."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stamina

from benchmarks.openai_server import Answer, Server, chat_answer
from gymnast_core.config import JudgeConfig, StationConfig, parse_config
from gymnast_core.errors import JudgeError
from gymnast_core.protocols import Start
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.spending import prices
from gymnast_core.reward.vlm import TaskQuestion, VLMJudge
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder
from tests.machine import in_time
from tests.point_world import PointEnvironment, PointPolicy, locate, point_starts


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with stamina.set_testing(True, attempts=4, cap=True):  # no waiting between attempts
        yield server
    server.close()


def videos(n: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, 5, 32, 32, 3), dtype=np.uint8))


def always(answer: Answer) -> Callable[[int, dict[str, Any]], Answer]:
    return lambda n, request: answer


def heard(server: Server, **fields: Any) -> VLMJudge:
    """A judge that this server has answered before."""
    vlm, script = judge(server, **fields), server.script
    server.script = always("Final Score: 1")
    vlm.judge(videos(), ["was it answered"])
    server.script = script
    server.requests.clear()
    return vlm


def judge(server: Server, **fields: Any) -> VLMJudge:
    extra = {name: fields.pop(name) for name in ("questions", "cache", "raw") if name in fields}
    return VLMJudge(JudgeConfig(kind="vlm", base_url=server.url, **{"timeout_s": 5.0, **fields}), **extra)


def test_the_request_shows_every_stride_frame_and_the_last_and_asks_the_question(server: Server) -> None:
    vlm = judge(server, votes=1, questions={"open it": TaskQuestion("Is it open?", "half open")})
    assert vlm.frame_indices(41)[-2:] == [39, 40] and vlm.frame_indices(41)[:3] == [0, 3, 6]
    assert vlm.frame_indices(40)[-1] == 39 and vlm.frame_indices(1) == [0]
    (verdict,) = vlm.judge(videos(), ["open it"])
    content = server.requests[0]["messages"][0]["content"]
    assert sum(part["type"] == "image_url" for part in content) == 5
    assert content[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    for text in ("open it", "Is it open?", "0.5 = half open", "Final Score: X"):
        assert text in content[0]["text"]
    assert verdict.score == 1.0 and verdict.confidence == 1.0
    sent = {name: value for name, value in server.requests[0].items() if name != "messages"}
    assert sent == {"model": "gpt-4o", "temperature": 1.0, "max_tokens": 400}


def test_majority_of_separate_requests_and_a_tie_is_an_abstention(server: Server) -> None:
    server.script = lambda n, request: f"Final Score: {int(n < 3)}"
    (verdict,) = judge(server, votes=5, concurrency=1).judge(videos(), ["open it"])
    assert verdict.score == 1.0 and verdict.confidence == pytest.approx(0.6) and len(server.requests) == 5
    server.requests.clear()
    server.script = lambda n, request: f"Final Score: {n % 2}"
    (verdict,) = judge(server, votes=4, concurrency=1).judge(videos(), ["open it"])
    assert verdict.score is None and "tied" in verdict.reason


def test_passing_faults_are_retried_and_lasting_ones_abstain(server: Server) -> None:
    faults: list[Answer] = [(500, "boom"), (429, '{"error": {"message": "slow down"}}'), (200, "not json")]
    server.script = lambda n, request: faults[n % 4] if n % 4 < 3 else "**Final Score:** 1"
    (verdict,) = judge(server, votes=3, concurrency=1).judge(videos(), ["open it"])
    assert verdict.score == 1.0 and len(server.requests) == 12

    server.script = lambda n, request: (503, "down")
    vlm = heard(server, votes=3)
    (verdict,) = vlm.judge(videos(), ["open it"])
    assert verdict.score is None and vlm.spending.failed_votes == 3 and "3 requests failed" in verdict.reason
    assert "503" in verdict.reason
    server.script = always("I would  rather not say.")
    (verdict,) = judge(server, votes=3).judge(videos(), ["open it"])
    assert verdict.score is None and "0 requests failed" in verdict.reason and "rather not" in verdict.reason
    bodies: tuple[str, ...] = (
        "{}",
        "[]",
        "null",
        "[1, 2",
        '{"choices": []}',
        '{"choices": [null]}',
        '{"choices": {"a": 1}}',
    )
    messages = ("null", "3", '{"content": null}', '{"content": {}}', '{"content": "", "refusal": "not this"}')
    usages = ("null", "7", '{"prompt_tokens": -1, "completion_tokens": "x"}')
    bodies += tuple(f'{{"choices": [{{"message": {message}}}]}}' for message in messages)
    bodies += tuple(f'{{"choices": [{{"message": null}}], "usage": {usage}}}' for usage in usages)
    for body in bodies:
        server.script = always((200, body))
        assert heard(server, votes=1).judge(videos(), ["open it"])[0].score is None
    server.script = lambda n, request: (200, '{"choices": [{"message": {"content": [{"text": "Final Score: 1"}]}}]}')
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 1.0


def test_an_answer_cut_short_is_not_read_as_a_whole_one(server: Server) -> None:
    for ended in ("length", "content_filter", "max_tokens", "error"):
        for text in ("Final Score: 0", "It is closed.\nFinal Score: 1", "Final Score: 1\n\nIn detail", ""):
            server.script = always((200, chat_answer(text, ended)))
            (verdict,) = judge(server, votes=1).judge(videos(), ["open it"])
            assert verdict.score is None, "what it would have gone on to say is not known"
            assert ("raise judge.answer_tokens" in verdict.reason) == (ended in ("length", "max_tokens"))


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, '{"error": {"message": "Incorrect API key"}}', "Incorrect API key"),
        (404, '{"error": {"message": "no such model"}}', "no such model"),
        (429, '{"error": {"code": "insufficient_quota", "message": "no credit"}}', "no credit"),
    ],
)
def test_what_would_fail_for_ever_ends_the_run_at_once(server: Server, status: int, body: str, told: str) -> None:
    server.script = lambda n, request: (status, body)
    with pytest.raises(JudgeError, match=told):
        judge(server, votes=5, concurrency=1).judge(videos(), ["open it"])
    assert len(server.requests) == 1
    server.script = lambda n, request: (400, '{"error": {"message": "picture not liked"}}')
    (verdict,) = heard(server, votes=1).judge(videos(), ["open it"])
    assert verdict.score is None and "picture not liked" in verdict.reason, "of this video alone, perhaps"


def test_a_server_that_asks_for_a_pause_gets_it_from_every_thread(server: Server) -> None:
    came: list[float] = []

    def busy(n: int, request: dict[str, Any]) -> Answer:
        came.append(time.monotonic())
        return (429, "{}", {"Retry-After": "0.6"}) if n == 0 else "Final Score: 1"

    server.script = busy
    (verdict,) = judge(server, votes=3, concurrency=1).judge(videos(), ["open it"])
    assert verdict.score == 1.0 and verdict.confidence == 1.0
    assert came[1] - came[0] >= 0.6 and in_time(0.5, came[1], came[-1])


def test_requests_a_minute_are_limited(server: Server) -> None:
    began = time.monotonic()
    judge(server, votes=5, requests_per_minute=600).judge(videos(), ["open it"])
    assert time.monotonic() - began >= 0.4


def test_a_server_that_keeps_sending_a_little_times_out(server: Server) -> None:
    server.drip_s = 0.05
    began = time.monotonic()
    with pytest.raises(JudgeError, match="no whole answer within"):
        judge(server, votes=1, timeout_s=0.3).judge(videos(), ["open it"])
    assert in_time(10.0, began)


def test_a_silent_server_times_out_to_an_abstention(server: Server) -> None:
    server.script = lambda n, request: None
    began = time.monotonic()
    (verdict,) = heard(server, votes=2, timeout_s=0.5).judge(videos(), ["open it"])
    assert verdict.score is None and in_time(10.0, began)


def test_concurrency_has_a_cap(server: Server) -> None:
    def slow(n: int, request: dict[str, Any]) -> Answer:
        time.sleep(0.03)
        return "Final Score: 0"

    server.script = slow
    verdicts = judge(server, votes=3, concurrency=4).judge(videos(6), ["open it"] * 6)
    assert [v.score for v in verdicts] == [0.0] * 6 and len(server.requests) == 18
    assert 2 <= server.most_at_once <= 4


PRICES = {"dollars_per_million_input_tokens": 2.5, "dollars_per_million_output_tokens": 10.0}


@pytest.mark.parametrize("limit", [{"max_dollars": 0.02, **PRICES}, {"max_total_tokens": 6000}], ids=str)
def test_spending_stays_below_its_limit(server: Server, limit: dict[str, Any]) -> None:
    vlm = judge(server, votes=5, concurrency=4, **limit)
    with pytest.raises(JudgeError, match=r"spend limit|tokens leaves no room"):
        vlm.judge(videos(8), ["open it"] * 8)  # 1100 tokens and $0.0035 a request
    assert 3 <= len(server.requests) <= 5
    assert (
        vlm.spending.tokens <= 6000 and vlm.spending.dollars <= 0.02 and vlm.spending.requests == len(server.requests)
    )


def test_a_server_that_is_near_costs_nothing_and_any_other_costs_until_its_price_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    near = ("http://localhost:8000/v1", "http://127.0.0.1/v1", "http://192.168.1.7:80/v1", "http://gpu:1/v1")
    far = ("", "https://api.openai.com/v1", "https://8.8.8.8/v1", "http://judge.example.org/v1")
    assert {prices(JudgeConfig(kind="vlm", base_url=address)) for address in near} == {(0.0, 0.0)}
    assert {prices(JudgeConfig(kind="vlm", base_url=address)) for address in far} == {(2.5, 10.0)}
    assert prices(JudgeConfig(kind="vlm", base_url=near[0], dollars_per_million_output_tokens=4.0)) == (0.0, 4.0)
    monkeypatch.setenv("OPENAI_BASE_URL", near[0])
    assert prices(JudgeConfig(kind="vlm")) == (0.0, 0.0)


def test_what_may_have_been_answered_is_paid_for_and_what_was_refused_is_not(server: Server) -> None:
    def spent(script: Answer, timeout: float = 5.0) -> tuple[int, int]:
        server.script = lambda n, request: script
        vlm = heard(server, votes=1, timeout_s=timeout)
        vlm.judge(videos(), ["open it"])
        return vlm.spending.input_tokens - 1000, vlm.spending.output_tokens - 100

    assert spent("Final Score: 1") == (1000, 100)
    assert spent((503, "down")) == spent((400, "{}")) == (0, 0)
    assert spent((200, '{"error": "no"}')) == spent((200, "<html>Sign in</html>")) == (0, 0), (
        "pages in place of answers"
    )
    uncounted = spent((200, '{"choices": [{"message": {"content": "Final Score: 1"}}]}'))
    assert uncounted == (1000, 400), "as large as the largest so far, with the longest answer"
    assert spent(None, 0.2) == (4 * uncounted[0], 4 * 400) == spent((200, '{"half')), "each of four attempts"


def test_answers_are_cached_by_content_and_kept_raw(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = judge(server, votes=2, cache=cache, raw=tmp_path / "raw.jsonl").judge(videos(), ["open it"])
    again = judge(server, votes=2, cache=cache, raw=tmp_path / "raw.jsonl").judge(videos(), ["open it"])
    assert first == again and len(server.requests) == 2
    lines = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert [(line["answer"], line["cached"], line.get("input_tokens")) for line in lines] == [
        *[("Final Score: 1", False, 1000)] * 2,
        *[("Final Score: 1", True, None)] * 2,
    ]
    others: list[dict[str, Any]] = [{"votes": 3}, {"model": "m"}, {"temperature": 0.5}, {"answer_tokens": 9}]
    for number, other in enumerate((*others, {"questions": {"open it": TaskQuestion("Is it open?")}}), 3):
        fields: dict[str, Any] = {"votes": 1, "cache": cache}
        judge(server, **fields | other).judge(videos(), ["open it"])
        assert len(server.requests) == number, f"{other} asks anew"
    judge(server, votes=1, cache=cache).judge(videos(), ["close it"])
    assert len(server.requests) == 8, "another instruction is another question"

    backwards = [videos()[0][::-1]]
    unreadable: tuple[Answer, ...] = ((503, "down"), "I cannot say.", (200, chat_answer("Final Score: 0", "length")))
    for unread in unreadable:
        server.script = always(unread)
        assert heard(server, votes=1, cache=cache).judge(backwards, ["open it"])[0].score is None
    server.script = lambda n, request: "Final Score: 1"
    (verdict,) = judge(server, votes=1, cache=cache).judge(backwards, ["open it"])
    assert verdict.score == 1.0, "a vote that failed or gave no score is not cached"


def test_videos_that_are_alike_are_asked_about_once(server: Server) -> None:
    verdicts = judge(server, votes=2).judge(videos() * 3, ["open it", "open it", "close it"])
    assert len(server.requests) == 4 and len(verdicts) == 3


def test_a_resumed_run_remembers_what_it_spent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"name": "x", "tasks": {"t": {"instruction": "open it"}}}
    judging = {"kind": "vlm", "base_url": server.url, "votes": 2}
    station = parse_config(StationConfig, {**content, "judge": judging}, "test")

    def load(ranks: int = 1) -> VLMJudge:
        loaded = load_judge(station, None, tmp_path / "run", 0, ranks)
        assert isinstance(loaded, VLMJudge)
        return loaded

    load().judge(videos(2), ["open it"] * 2)
    (tmp_path / "run" / "judge_answers_1.jsonl").write_text('{"input_tokens": 96, "output_tokens": "x"}\n{"half')
    assert (load().spending.input_tokens, load().spending.output_tokens) == (4096, 400)
    assert load(4).spending.input_tokens == 1024 and load(4).config.max_dollars == 5.0
    load().judge(videos(2), ["open it"] * 2)
    assert load().spending.tokens == 4496, "what the cache answers costs nothing"


def test_training_through_a_faulty_server_is_the_training_through_a_sound_one(server: Server, tmp_path: Path) -> None:
    def look(n: int, request: dict[str, Any]) -> Answer:
        url = request["messages"][0]["content"][-1]["image_url"]["url"]
        image = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        right = locate(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA))[0] > 0.6
        return f"**Final Score:** {int(right)}"

    def faulty(n: int, request: dict[str, Any]) -> Answer:
        faults: list[Answer] = [(500, "boom"), (200, '{"half'), (429, "{}"), "I cannot say."]
        return faults[n % 4] if random.Random(n).random() < 0.3 else look(n, request)

    def train(name: str) -> list[dict[str, float]]:
        policy = PointPolicy()
        config = GRPOConfig(groups=3, min_groups=2, group_size=6, horizon=9, temperature=1.0, learning_rate=5e-3)
        starts = [Start(f"go to the {side}", start.frame) for start, side in zip(point_starts(3), ("right",) * 3)]
        run = RunFolder(tmp_path / name, config, False)
        vlm = judge(server, votes=1, stride=9, raw=tmp_path / f"{name}.jsonl", **PRICES)
        trainer = GRPOTrainer(policy, policy, PointEnvironment(), vlm, starts, config, run)
        return [trainer.step() for _ in range(3)]

    server.script = look
    sound = train("sound")
    assert 0.05 < sound[0]["mean_reward"] < 0.95
    assert sound[-1]["judge_tokens"] == 1100 * len(server.requests) and sound[-1]["judge_dollars"] > 0
    server.script = faulty
    broken = train("broken")
    answers = [json.loads(line) for line in (tmp_path / "broken.jsonl").read_text().splitlines()]
    unreadable = sum(line["answer"] is None or "cannot" in line["answer"] for line in answers)
    assert unreadable == sum(m["abstentions"] for m in broken) > 0, "every fault is an abstention, none a failure"
    for clean, faulted in zip(sound, broken):
        assert faulted["mean_reward"] == pytest.approx(clean["mean_reward"], abs=0.2)


def test_no_key_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(JudgeError, match="OPENAI_API_KEY"):
        VLMJudge(JudgeConfig(kind="vlm"))

"""The VLM judge against a real server on the loopback: messy answers, faults, limits, cache."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stamina
from point_world import PointEnvironment, PointPolicy, locate, point_starts

from benchmarks.openai_server import Answer, Server
from gymnast_core.config import JudgeConfig
from gymnast_core.errors import JudgeError
from gymnast_core.protocols import Start
from gymnast_core.reward.vlm import TaskQuestion, VLMJudge, parse_score
from gymnast_core.rl.trainer import GRPOConfig, GRPOTrainer
from gymnast_core.run_folder import RunFolder


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with stamina.set_testing(True, attempts=4, cap=True):  # no waiting between attempts
        yield server
    server.close()


def videos(n: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, 5, 32, 32, 3), dtype=np.uint8))


def judge(server: Server, **fields: Any) -> VLMJudge:
    extra = {name: fields.pop(name) for name in ("questions", "cache", "raw") if name in fields}
    return VLMJudge(JudgeConfig(kind="vlm", base_url=server.url, **{"timeout_s": 5.0, **fields}), **extra)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Final Score: 1", 1.0),
        ("**Final Score:** 1", 1.0),
        ("Final Score: **1**", 1.0),
        ("final score : 0.0", 0.0),
        ("**Final Score: 1.**", 1.0),
        ("### Final Score:\n\n**0**", 0.0),
        ("Final Score: `1`", 1.0),
        ("Final Score: $1$" , None),
        ("Final_Score = 1", 1.0),
        ("The Final Score is 0.", 0.0),
        ("Final Score: 1/1", 1.0),
        ("Final Score: 1 / 10", None),
        ("Final Score: 10", None),
        ("Final Score: 0.5", None),
        ("Final Score: 0.51", None),
        ("Final Score: -1", None),
        ("Final Score: X", None),
        ("I would say it worked.", None),
        ("", None),
        ("I will end with 'Final Score: 0' or so. It opens.\nFinal Score: 1", 1.0),
    ],
)  # fmt: skip
def test_answers_are_read_tolerantly_and_never_guessed(answer: str, score: float | None) -> None:
    assert parse_score(answer) == score


def test_half_points_only_where_partial_credit_is_asked_for() -> None:
    assert parse_score("Final Score: 0.5", partial=True) == 0.5
    assert parse_score("Final Score: 0,5", partial=True) == 0.5
    assert parse_score("Final Score: 0.7", partial=True) is None


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
    vlm = judge(server, votes=3)
    (verdict,) = vlm.judge(videos(), ["open it"])
    assert verdict.score is None and vlm.spending.failed_votes == 3 and "3 requests failed" in verdict.reason
    for body in ("{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', "[1, 2"):
        server.script = lambda n, request, body=body: (200, body)
        assert judge(server, votes=1).judge(videos(), ["open it"])[0].score is None


def test_a_silent_server_times_out_to_an_abstention(server: Server) -> None:
    server.script = lambda n, request: None
    began = time.monotonic()
    (verdict,) = judge(server, votes=2, timeout_s=0.2).judge(videos(), ["open it"])
    assert verdict.score is None and time.monotonic() - began < 10


def test_concurrency_has_a_cap(server: Server) -> None:
    def slow(n: int, request: dict[str, Any]) -> Answer:
        time.sleep(0.03)
        return "Final Score: 0"

    server.script = slow
    verdicts = judge(server, votes=3, concurrency=4).judge(videos(6), ["open it"] * 6)
    assert [v.score for v in verdicts] == [0.0] * 6 and len(server.requests) == 18
    assert 2 <= server.most_at_once <= 4


def test_spending_stops_at_its_limit(server: Server) -> None:
    vlm = judge(
        server,
        votes=5,
        concurrency=1,
        max_dollars=0.02,
        dollars_per_million_input_tokens=2.5,
        dollars_per_million_output_tokens=10.0,
    )
    with pytest.raises(JudgeError, match="spend limit"):
        vlm.judge(videos(8), ["open it"] * 8)  # $0.0035 a request
    assert len(server.requests) == 6 and vlm.spending.dollars == pytest.approx(0.021)


def test_answers_are_cached_by_content_and_kept_raw(server: Server, tmp_path: Path) -> None:
    first = judge(server, votes=2, cache=tmp_path / "cache", raw=tmp_path / "raw.jsonl").judge(videos(), ["open it"])
    again = judge(server, votes=2, cache=tmp_path / "cache").judge(videos(), ["open it"])
    assert first == again and len(server.requests) == 2
    judge(server, votes=2, cache=tmp_path / "cache").judge(videos(), ["close it"])
    assert len(server.requests) == 4, "another instruction is another question"
    lines = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == ["Final Score: 1"] * 2
    server.script = lambda n, request: (503, "down")
    judge(server, votes=1, cache=tmp_path / "cache").judge([videos()[0][::-1]], ["open it"])
    server.script = lambda n, request: "Final Score: 1"
    (verdict,) = judge(server, votes=1, cache=tmp_path / "cache").judge([videos()[0][::-1]], ["open it"])
    assert verdict.score == 1.0, "a failed vote is not cached"


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
        vlm = judge(server, votes=1, stride=9, raw=tmp_path / f"{name}.jsonl")
        trainer = GRPOTrainer(policy, policy, PointEnvironment(), vlm, starts, config, run)
        return [trainer.step() for _ in range(3)]

    server.script = look
    sound = train("sound")
    assert 0.05 < sound[0]["mean_reward"] < 0.95
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

"""A judge is asked about a real picture before trials begin: one that does not answer is named, and nothing moves."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina
import yaml

from benchmarks.openai_server import Server
from gymnast_core.cli import main
from gymnast_core.config import JudgeConfig
from gymnast_core.errors import JudgeError
from gymnast_core.reward.check import check_judge
from gymnast_core.reward.classifier import load_classifier
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.reward.vlm import VLMJudge
from tests.tiny_station import build_tiny_station, picture, put_on_graph

KEY = "sk-proj-Zq81mXvT77bLw0c"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with stamina.set_testing(True, attempts=2, cap=True):  # no waiting between attempts
        yield server
    server.close()


def judge(url: str, cache: Path | None = None) -> VLMJudge:
    return VLMJudge(
        JudgeConfig(kind="vlm", base_url=url, votes=5, timeout_s=5.0, dollars_per_million_input_tokens=2.5),
        cache=cache,
        api_key=KEY,
    )


def test_one_question_is_asked_whatever_was_answered_before_and_its_cost_is_told(
    server: Server, tmp_path: Path
) -> None:
    first = check_judge(judge(server.url, tmp_path), picture(), ["open it", "close it"])
    assert first is not None and first.completed and len(server.requests) == 1 and first.tokens > 0
    assert f"{first.tokens} tokens, $" in str(first) and "(vlm) answered about a picture" in str(first)
    assert "open it" in json.dumps(server.requests[0]) and KEY not in str(first)
    server.script = lambda n, request: "Final Score: 0"
    again = check_judge(judge(server.url, tmp_path), picture(), ["open it"])
    assert again is not None and again.completed is False, "an earlier answer would hide a server that is gone"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, json.dumps({"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})), "API key"),
        ((503, "loading"), "503"),
        ((200, "<html>a captive portal</html>"), "HTML"),
        ("I would rather not say", "I would rather not say"),
    ],
)
def test_a_refused_key_a_server_that_is_down_and_nonsense_are_one_line(server: Server, answer: Any, told: str) -> None:
    server.script = lambda n, request: answer
    with pytest.raises(JudgeError) as raised:
        check_judge(judge(server.url), picture(), ["open it"])
    words = str(raised.value)
    assert (
        words.startswith(f"judge: {server.url} with ")
        and told.lower() in words.lower()
        and "\n" not in words
        and KEY not in words
    )


def test_an_unreachable_server_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with stamina.set_testing(True, attempts=2, cap=True), pytest.raises(JudgeError, match=address):
            check_judge(judge(address), picture(), ["open it"])


def test_a_learned_judge_names_the_tasks_it_does_not_know_and_the_truth_is_not_asked(tmp_path: Path) -> None:
    station = build_tiny_station(tmp_path)
    learned = load_classifier(station.parent / yaml.safe_load(station.read_text())["judge"]["checkpoint"], "cpu")
    found = check_judge(learned, picture(), ["open the drawer", "fold the cloth"])
    assert found is not None and found.completed is not None and list(found.abstained) == ["fold the cloth"]
    assert "does not know" in found.abstained["fold the cloth"] and "costs nothing" in str(found)
    assert check_judge(TruthJudge(), picture(), ["open the drawer"]) is None


def test_simulated_trials_that_the_judge_ends_begin_when_it_answers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where answers are cached
    station = build_tiny_station(tmp_path / "station", simulated=True)
    asking = {"kind": "vlm", "base_url": server.url, "votes": 1, "timeout_s": 5.0}
    put_on_graph(station, judge=asking, executor={"stop_at_success": True})
    np.savez(tmp_path / "still.npz", actions=np.zeros((4, 7), np.float32))
    words = ["trials", str(station), "--policies", str(tmp_path / "still.npz"), "--task", "open_drawer"]
    words += ["--trials", "1", "--max-steps", "2", "--run", str(tmp_path / "run")]
    server.script = lambda n, request: (401, json.dumps({"error": {"message": "Incorrect API key provided"}}))
    assert main(words) != 0
    told = capsys.readouterr().err
    assert "trial 1 of 1: no trial begins, the judge does not answer" in told
    assert "Incorrect API key provided" in told and "Traceback" not in told
    assert not (tmp_path / "run" / "trials.jsonl").exists() and len(server.requests) == 1
    server.script = lambda n, request: "Final Score: 0"
    assert main(words) == 0
    assert "(vlm) answered about a picture" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "trials.jsonl").read_text())["reset"]["method"] == "simulated"

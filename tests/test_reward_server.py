"""The judge's server over a real loopback: lasting refusals, settings, dialects, endless bodies, echoed secrets."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina

from benchmarks.openai_server import Answer, Server, chat_answer
from gymnast_core.config import JudgeConfig, StationConfig, parse_config
from gymnast_core.doctor import check_judge
from gymnast_core.errors import ConfigError, JudgeError
from gymnast_core.reporting.report import Section, write_report
from gymnast_core.reward.robometer import RobometerJudge
from gymnast_core.reward.vlm import VLMJudge
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.groups import NothingToLearn
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder
from tests.machine import slower
from tests.point_world import PointEnvironment, PointPolicy, point_starts

KEY = "sk-proj-Zq81mXvT77bLw0c"
PICTURES = "Only 4 pictures fit into one request."


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with stamina.set_testing(True, attempts=5, cap=True):  # no waiting between attempts
        yield server
    server.close()


def videos(n: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, 5, 32, 32, 3), dtype=np.uint8))


def judge(server: Server, **fields: Any) -> VLMJudge:
    extra = {name: fields.pop(name) for name in ("cache", "raw", "api_key") if name in fields}
    return VLMJudge(JudgeConfig(kind="vlm", base_url=server.url, **{"timeout_s": 5.0, **fields}), **extra)


@pytest.mark.parametrize(
    ("status", "reply", "requests"),
    [
        (400, {"object": "error", "message": PICTURES, "code": 400}, 2),
        (400, {"error": {"message": PICTURES, "param": "messages"}}, 2),
        (422, {"detail": [{"msg": PICTURES, "loc": ["body"]}]}, 2),
        (403, {"error": {"message": PICTURES}}, 2),
        (401, {"error": {"message": PICTURES}}, 1),
        (405, {"message": PICTURES}, 1),
        (429, {"error": {"message": PICTURES, "type": "insufficient_quota", "code": None}}, 1),
        (500, {"error": {"message": f"image input is not supported. {PICTURES}"}}, 2),
        (501, {"error": PICTURES}, 2),
        (200, {"error": PICTURES}, 2),
        (200, {"error": {"message": PICTURES, "code": 402}}, 1),
        (200, {"object": "error", "message": PICTURES}, 2),
        (200, {"choices": [{"error": {"message": PICTURES, "code": 400}}]}, 2),
        (503, {"error": {"message": PICTURES}}, 5),
        (200, {"error": {"message": PICTURES, "code": 502}}, 5),
        (429, {"error": {"message": f"You exceeded your current quota, please check your plan. {PICTURES}"}}, 1),
        (429, {"error": {"message": f"Limit reached on requests per day (RPD): try again in 7m12s. {PICTURES}"}}, 1),
        (429, {"error": {"message": f"You exceeded your current quota. Please retry in 26.8s. {PICTURES}"}}, 5),
    ],
)
def test_what_never_works_ends_the_run_at_once_in_the_server_s_words_and_costs_nothing(
    server: Server, status: int, reply: Any, requests: int
) -> None:
    server.script = lambda n, request: (status, json.dumps(reply))
    vlm = judge(server, votes=5)
    with pytest.raises(JudgeError, match=PICTURES) as told:
        vlm.judge(videos(6), ["open it"] * 6)
    assert "\n" not in str(told.value) and server.url in str(told.value)
    assert len(server.requests) == requests and vlm.spending.tokens == 0
    with pytest.raises(JudgeError, match=PICTURES):  # a single video, as an executor has it
        judge(server, votes=3).judge(videos(), ["open it"])
    assert len(server.requests) <= 2 * requests


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("", "no JSON: empty"),
        ('data: {"choices": [{"delta": {"content": "Final Score: 1"}}]}\n\ndata: [DONE]\n\n', "a stream of events"),
        ('event: error\ndata: {"error": {"message": "CUDA out of memory", "code": 400}}\n\n', "CUDA out of memory"),
        (": ping\n\n" * 9, "a stream of events"),
        ('{"message": {"content": "Final Score: 1"}, "done": true}', "found message, done, needed choices"),
        (
            '{"choices": [{"message": {"content": "Final Score: 0", "content": "Final Score: 1"}}]}',
            "'content' .* twice",
        ),
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_what_stands_in_place_of_a_reply_is_named(server: Server, body: str, told: str) -> None:
    server.script = lambda n, request: (200, body)
    with pytest.raises(JudgeError, match=told):
        judge(server, votes=1).judge(videos(2), ["open it"] * 2)


@pytest.mark.parametrize(
    ("message", "ended", "told"),
    [
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "calls a tool"),
        ({"content": None}, "content_filter", "ended by 'content_filter'"),
        ({"content": [{"type": "refusal", "refusal": "not this one"}]}, "stop", "refused: not this one"),
    ],
)
def test_why_there_is_no_text_in_an_answer_is_told(server: Server, message: Any, ended: str, told: str) -> None:
    server.script = lambda n, request: (200, json.dumps({"choices": [{"message": message, "finish_reason": ended}]}))
    (verdict,) = judge(server, votes=1).judge(videos(), ["open it"])
    assert verdict.score is None and told in verdict.reason


@pytest.mark.parametrize(
    "content",
    [
        ["Final Score: 1"],
        {"text": "Final Score: 1"},
        [{"type": "output_text", "text": "Final Score: 1"}],
        [{"type": "text", "text": {"value": "Final Score: 1"}}],
    ],
    ids=str,
)
def test_an_answer_in_parts_is_read(server: Server, content: Any) -> None:
    server.script = lambda n, request: (200, json.dumps({"choices": [{"message": {"content": content}}]}))
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 1.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["vlm", "robometer"])
def test_pictures_and_keys_go_to_nobody_whom_the_settings_do_not_name(
    server: Server, status: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Server()
    server.script = lambda n, request: (status, "", {"Location": f"{other.url}/chat/completions?token=abcd1234efgh"})
    config = JudgeConfig(kind=kind, base_url=server.url, votes=1, timeout_s=5.0)  # type: ignore[arg-type]
    asked = VLMJudge(config, api_key=KEY) if kind == "vlm" else RobometerJudge(config, api_key=KEY)
    with pytest.raises(
        JudgeError, match=rf"status {status}: it sends requests on to '{other.url}.*judge.base_url"
    ) as told:
        asked.judge(videos(), ["open it"])
    other.close()
    assert not other.requests and len(server.requests) == 1 and "abcd1234" not in str(told.value)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_whoever_asks_for_a_pause_gets_it(server: Server, status: int) -> None:
    came: list[float] = []

    def busy(n: int, request: dict[str, Any]) -> Answer:
        came.append(time.monotonic())
        return (status, "{}", {"Retry-After": "0.5"}) if n == 0 else "Final Score: 1"

    server.script = busy
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 1.0
    assert came[1] - came[0] >= 0.5


def test_the_same_server_may_send_a_request_on(server: Server) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return (
            (307, "", {"Location": server.paths[-1] + "/"}) if not server.paths[-1].endswith("/") else "Final Score: 1"
        )

    server.script = script
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 1.0


def test_a_page_in_place_of_answers_ends_the_run_and_costs_nothing(server: Server) -> None:
    server.script = lambda n, request: (200, "<html><title>Sign in</title></html>")
    vlm = judge(server, votes=5)
    with pytest.raises(JudgeError, match="HTML page \\('Sign in'\\)"):
        vlm.judge(videos(6), ["open it"] * 6)
    assert len(server.requests) == 5 and vlm.spending.tokens == 0


def test_a_refusal_of_one_video_is_an_abstention_and_of_sixteen_in_a_row_the_end(server: Server) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return "Final Score: 1" if n != 2 else (400, '{"error": {"message": "flagged"}}')

    server.script = script
    vlm = judge(server, votes=1, concurrency=1)
    assert [one.score for one in vlm.judge(videos(6), ["open it"] * 6)] == [1.0, 1.0, None, 1.0, 1.0, 1.0]
    server.script = lambda n, request: (403, '{"error": {"message": "the key was withdrawn"}}')
    asked = len(server.requests)
    with pytest.raises(JudgeError, match="the key was withdrawn"):
        vlm.judge(videos(40), ["close it"] * 40)
    assert len(server.requests) - asked == 16


def test_after_a_failure_the_same_judge_asks_again_when_it_is_asked_again(server: Server) -> None:
    server.script = lambda n, request: (503, "down")
    vlm = judge(server, votes=1)
    with pytest.raises(JudgeError, match="503"):
        vlm.judge(videos(), ["open it"])
    server.script = lambda n, request: "Final Score: 1"
    assert vlm.judge(videos(), ["open it"])[0].score == 1.0


def test_a_judge_whose_answers_never_hold_a_score_ends_the_run_and_says_why(server: Server) -> None:
    server.script = lambda n, request: (200, chat_answer("It moves, and", "length"))
    vlm = judge(server, votes=1)
    with pytest.raises(JudgeError, match=r"no score for any of the first 16 videos.*raise judge.answer_tokens"):
        for _ in range(5):
            vlm.judge(videos(4), ["open it"] * 4)
    assert len(server.requests) == 16


def test_practice_ends_with_the_first_batch_that_has_no_verdict_and_says_why(server: Server, tmp_path: Path) -> None:
    server.script = lambda n, request: (200, chat_answer("I look at the first frame and", "length"))
    policy = PointPolicy()
    config = GRPOConfig(groups=2, min_groups=1, group_size=4, horizon=9, temperature=1.0, learning_rate=5e-3)
    run = RunFolder(tmp_path, config, False)
    vlm = judge(server, votes=1, stride=9)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), vlm, point_starts(2), config, run)
    with pytest.raises(NothingToLearn):
        trainer.step()
    assert trainer.source.batch == 1 and "raise judge.answer_tokens" in trainer.source.hindrance


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "sk-a\nbcdef",
        "sk-abc\u201d",
        "sk-\u200babc",
        "sk abc",
        '"sk-abc"',
        "'sk-abc'",
        "Bearer sk-abc",
        "  \n",
        "sk-é",
    ],
)
def test_a_key_that_no_header_can_hold_is_refused_when_the_judge_is_made(
    server: Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(JudgeError, match="OPENAI_API_KEY: holds") as told:
        judge(server)
    assert "sk-" not in str(told.value) and "\n" not in str(told.value)
    station = parse_config(
        StationConfig,
        {"name": "x", "tasks": {"t": {"instruction": "open it"}}, "judge": {"kind": "vlm", "base_url": server.url}},
        "x",
    )
    assert check_judge(station).status == "missing" and "OPENAI_API_KEY" in check_judge(station).detail


def test_a_line_break_at_the_end_of_a_key_is_taken_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 1.0
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:8000/v1", "localhost:8000/v1", "http:/127.0.0.1/v1", "http//127.0.0.1/v1", "ftp://127.0.0.1/v1"),
        *(
            "http://127.0.0.1 :8000/v1",
            "http://127.0.0.1:8000/v1\n",
            "http:// 127.0.0.1/v1",
            "http://127.0.0.1:99999/v1",
        ),
        *("http://127.0.0.1:port/v1", "http://127.0.0.1:0/v1", "http://127.0.0.1:/v1", "http:///v1", "http://:8000/v1"),
        *(
            "http://http://127.0.0.1/v1",
            "http://127.0.0.1\u200b/v1",
            "\u201chttp://127.0.0.1/v1\u201d",
            "http://[::1/v1",
        ),
        *("http://256.0.0.1/v1", "http://127.0.0/v1", "http://a..b/v1", "http://x/v1?key=abcdefgh", "http://x/v1#y"),
        *("http://user:hunter22@127.0.0.1/v1", "https://token1234@127.0.0.1/v1", " ", "none"),
    ],
)
def test_an_address_that_is_none_is_refused_when_the_file_is_read_and_when_a_judge_is_made(address: str) -> None:
    content = {
        "name": "x",
        "tasks": {"t": {"instruction": "open it"}},
        "adaptation": {"gate_judge": {"kind": "vlm", "base_url": address}},
    }
    with pytest.raises(ConfigError, match=r"station.yaml: adaptation.gate_judge.base_url: found") as told:
        parse_config(StationConfig, content, "station.yaml")
    with pytest.raises(JudgeError, match=r"judge.base_url: found") as made:
        VLMJudge(JudgeConfig(kind="vlm", base_url=address))
    for words in (str(told.value), str(made.value)):
        assert "\n" not in words and not any(secret in words for secret in ("hunter22", "token1234", "abcdefgh"))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8000/v1", "https://gpu_2.lab:1/v1/", "http://[::1]:80", "http://bücher.example/v1"]
)
def test_addresses_that_may_be_right_are_taken(address: str) -> None:
    assert (
        parse_config(
            StationConfig,
            {"name": "x", "tasks": {"t": {"instruction": "open it"}}, "judge": {"base_url": address}},
            "x",
        ).judge.base_url
        == address
    )
    VLMJudge(JudgeConfig(kind="vlm", base_url=address))


def test_the_whole_path_of_a_request_is_no_base(server: Server) -> None:
    with pytest.raises(JudgeError, match=r"judge.base_url: .*chat/completions is added to"):
        VLMJudge(JudgeConfig(kind="vlm", base_url=f"{server.url}/chat/completions"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HTTP_PROXY", "garbage"), ("http_proxy", "http://proxy:port"), ("ALL_PROXY", "ftp://proxy:1")),
        *(("HTTP_PROXY", "http://user:hunter22@pro xy:1"), ("HTTP_PROXY", "http://"), ("OPENAI_ORG_ID", "org\n1")),
        *(("SSL_CERT_FILE", "/no/such/file"), ("OPENAI_BASE_URL", "api.lab/v1"), ("HTTPS_PROXY", "bad://x:1")),
    ],
)
def test_a_wrong_variable_of_the_environment_is_named(
    server: Server, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    base = {} if name in ("OPENAI_BASE_URL", "HTTPS_PROXY") else {"base_url": server.url}
    with pytest.raises(JudgeError, match=name) as told:
        VLMJudge(JudgeConfig(kind="vlm", **base))
    assert "hunter22" not in str(told.value) and not server.requests


def test_what_never_left_this_machine_is_neither_sent_again_nor_charged(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = VLMJudge(JudgeConfig(kind="vlm", base_url="http://no-such-machine.invalid/v1"))
    with pytest.raises(JudgeError, match=r"no-such-machine.invalid|Temporary failure"):
        vlm.judge(videos(), ["open it"])
    assert vlm.spending.tokens == 0
    vlm = judge(server, votes=3)
    with pytest.raises(JudgeError, match="this machine cannot send"):
        vlm.judge(videos(), ["a broken character \ud800"])
    assert vlm.spending.tokens == 0 and not server.requests


def test_the_cache_knows_who_was_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Server(lambda n, request: "Final Score: 0")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    scores = []
    for url in (server.url, other.url, f"{server.url}/"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        vlm = VLMJudge(JudgeConfig(kind="vlm", votes=1), cache=tmp_path)
        scores.append(vlm.judge(videos(), ["open it"])[0].score)
    other.close()
    assert scores == [1.0, 0.0, 1.0] and len(server.requests) == len(other.requests) == 1


# --- dialects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        {"max_completion_tokens"},
        {"max_completion_tokens", "temperature"},
        {"max_tokens"},
        {"max_tokens", "temperature"},
    ],
    ids=sorted,
)
@pytest.mark.parametrize("status", [400, 422])
def test_names_of_parameters_are_found_out_once_by_what_the_server_refuses(
    server: Server, known: set[str], status: int
) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        odd = [
            name
            for name in ("max_tokens", "max_completion_tokens", "temperature")
            if name in request and name not in known
        ]
        if odd:
            words = f"Unsupported parameter: '{odd[0]}' is not supported with this model."
            return status, json.dumps({"error": {"message": words, "code": "unsupported_parameter"}})
        return "Final Score: 1"

    server.script = script
    vlm = judge(server, votes=3)
    verdicts = vlm.judge(videos(4), ["open it"] * 4)
    assert [one.score for one in verdicts] == [1.0] * 4 and len(server.requests) <= 12 + 2
    assert vlm.spending.tokens == 12 * 1100, "refusals cost nothing"
    assert {"max_tokens", "max_completion_tokens", "temperature"} & set(server.requests[-1]) == known


def test_a_parameter_that_stays_refused_is_told_and_a_temperature_is_never_changed_in_silence(server: Server) -> None:
    words = "max_tokens must be at most 100"
    server.script = lambda n, request: (400, json.dumps({"error": {"message": words}}))
    with pytest.raises(JudgeError, match=words):
        judge(server).judge(videos(), ["open it"])
    words = "Unsupported value: 'temperature' does not support 0.5 with this model."
    with pytest.raises(JudgeError, match=r"judge.temperature: .* refuses 0.5"):
        judge(server, temperature=0.5).judge(videos(), ["open it"])


def test_thoughts_in_fields_of_their_own_are_not_read(server: Server) -> None:
    thought = "It moved.\nFinal Score: 1"
    messages: list[dict[str, Any]] = [
        {"content": None, "reasoning_content": thought},
        {"content": "", "reasoning": thought},
        {"content": thought, "reasoning_content": thought},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": thought}]},
                {"type": "reasoning", "text": thought},
            ]
        },
    ]
    for message in messages:
        server.script = lambda n, request, message=message: (
            200,
            json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}),
        )
        assert judge(server, votes=1).judge(videos(), ["open it"])[0].score is None, message
    messages[-1]["content"].append({"type": "text", "text": "Final Score: 0"})
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 0.0


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("packed", [True, False])
def test_an_endless_body_costs_little_memory_and_no_time(server: Server, status: int, packed: bool) -> None:
    size = (300 if packed else 40) << 20
    body = gzip.compress(b'{"error": "' + b" " * size, 1) if packed else b" " * size
    headers = {"Content-Encoding": "gzip"} if packed else {}
    server.script = lambda n, request: (status, body, headers)
    vlm = judge(server, votes=1)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(JudgeError, match="longer than"):
        vlm.judge(videos(), ["open it"])
    taken, (_, most) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60 << 20 and taken / slower() < 5
    assert server.headers[0]["accept-encoding"] == "identity"


def test_an_answer_that_is_packed_although_nobody_asked_is_read(server: Server) -> None:
    body = gzip.compress(chat_answer("Final Score: 1").encode())
    server.script = lambda n, request: (200, body, {"Content-Encoding": "gzip"})
    assert judge(server, votes=1).judge(videos(), ["open it"])[0].score == 1.0
    server.script = lambda n, request: (200, body, {"Content-Encoding": "br"})
    with pytest.raises(JudgeError, match="packed as 'br'"):
        judge(server, votes=1).judge(videos(), ["open it"])


def test_a_server_that_spins_out_the_head_of_its_reply_is_given_up() -> None:
    def drip(link: socket.socket) -> None:
        with contextlib.suppress(OSError):
            link.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                link.sendall(b"X-A: b\r\n")
                time.sleep(0.05)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener, stamina.set_testing(True, attempts=1):
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with pytest.raises(JudgeError, match=r"no whole answer within|timed out"):  # no byte came, on a busy machine
            VLMJudge(JudgeConfig(kind="vlm", base_url=url, timeout_s=0.2, votes=1)).judge(videos(), ["open it"])


# --- secrets --------------------------------------------------------------------------------------------------------


def test_a_key_that_a_server_echoes_reaches_no_file_and_no_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    echoes: list[Answer] = [
        (
            400,
            json.dumps({"error": {"message": f"{'x' * 300} key {KEY} is wrong; you sent Authorization: Bearer {KEY}"}}),
        ),
        (500, f"<html>Authorization: Bearer {KEY}</html>"),
        (200, json.dumps({"error": f"of {KEY[:-4]}"})),
        f"I was asked with {KEY.upper()}.\nFinal Score: 1",
        (200, chat_answer(f"{KEY} or {KEY[4:]}", "length")),
    ]
    told = ""
    for number, echo in enumerate(echoes):
        server.script = lambda n, request, echo=echo: echo
        vlm = judge(server, votes=1, raw=tmp_path / "judge_answers.jsonl", cache=tmp_path / "cache")
        try:
            (verdict,) = vlm.judge(videos(), [f"open it {number}"])
            told += verdict.reason
        except JudgeError as error:
            told += str(error)
    write_report(tmp_path, "Judge", [Section("x", told, facts=(("kept", f"a stray {KEY}"),))])
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "is wrong" in kept + told and "report" in str(list(tmp_path.iterdir()))
    for text in (told, kept, capsys.readouterr().err):
        for begin in range(len(KEY) - 8):
            assert KEY[begin : begin + 9].lower() not in text.lower()

"""A Robometer server as judge, over a real loopback: the form that is sent, answers, faults, secrets."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stamina

from benchmarks.openai_server import Answer, Server
from gymnast_core.config import JudgeConfig, StationConfig, parse_config
from gymnast_core.doctor import check_judge
from gymnast_core.errors import JudgeError
from gymnast_core.protocols import Judge
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.robometer import RobometerJudge, read_frames
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.practice import models_of
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder
from tests.machine import in_time
from tests.point_world import PointEnvironment, PointPolicy, locate, point_starts

KEY = "sk-proj-Zq81mXvT77bLw0c"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(lambda n, request: answer(brightness(request)))
    with stamina.set_testing(True, attempts=3, cap=True):  # no waiting between attempts
        yield server
    server.close()


def brightness(form: dict[str, Any]) -> np.ndarray:
    """Of each frame that came, 0 to 1. The form is read as the authors' server reads it."""
    sample = json.loads(form["sample_0"])
    trajectory = sample["trajectory"]
    frames = np.load(io.BytesIO(form[trajectory["frames"]["__numpy_file__"]]), allow_pickle=False)
    assert sample["sample_type"] == "progress" and form["use_frame_steps"] == b"false"
    assert frames.dtype == np.uint8 and list(frames.shape) == trajectory["frames_shape"]
    assert trajectory["metadata"]["subsequence_length"] == len(frames) and isinstance(trajectory["id"], str)
    return frames.mean(axis=(1, 2, 3)) / 255


def answer(progress: Any, success: Any = None) -> tuple[int, str]:
    rows = [one.tolist() if isinstance(one, np.ndarray) else one for one in (progress, success)]
    told = {"outputs_preference": None, "outputs_progress": {"progress_pred": [rows[0]]}}
    return 200, json.dumps({**told, "outputs_success": {"success_probs": [rows[0] if success is None else rows[1]]}})


def film(*levels: float) -> np.ndarray:
    """Grey frames (n, 40, 48, 3) of these levels, 0 to 1."""
    return np.stack([np.full((40, 48, 3), round(255 * level), dtype=np.uint8) for level in levels])


def judge(server: Server, **fields: Any) -> RobometerJudge:
    extra = {name: fields.pop(name) for name in ("cache", "raw", "api_key") if name in fields}
    content = {"kind": "robometer", "base_url": server.url, "timeout_s": 5.0, **fields}
    return RobometerJudge(parse_config(JudgeConfig, content, "test"), **extra)


def test_frames_go_out_as_numpy_and_progress_and_success_come_back_for_each(server: Server) -> None:
    robometer = judge(server, stride=2)
    assert isinstance(robometer, Judge) and robometer.frame_indices(6) == [0, 2, 4, 5]
    rising, falling, once = film(0.1, 0.4, 0.8, 0.9), film(0.9, 0.8, 0.3, 0.0), film(0.1, 0.9, 0.2, 0.3)
    done, undone, flash = robometer.judge([rising, falling, once], ["open it", "open it", "close it"])
    assert done.completed is True and done.completed_at == 3 and done.grade == pytest.approx(0.8, abs=0.01)
    assert done.progress == pytest.approx((0.1, 0.4, 0.8, 0.9), abs=0.01)
    assert undone.completed is True and undone.completed_at == 1, "it was done for two frames"
    assert flash.completed is False, "a single frame is not a success"
    assert json.loads(server.requests[0]["sample_0"])["trajectory"]["task"] == "open it"
    assert server.paths == ["/v1/evaluate_batch_npy"] * 3 and len(server.requests) == 3
    assert judge(server, threshold=0.85).judge([rising], ["open it"])[0].completed is False
    assert robometer.spending.line == "robometer judge: 3 requests, 0 tokens; 0 votes from the cache, 0 failed"


def test_a_server_that_looks_at_fewer_frames_tells_for_all_of_them(server: Server) -> None:
    server.script = lambda n, request: answer([0.1, 0.5, 0.9], [0.0, 0.2, 0.9])
    (verdict,) = judge(server).judge([film(*np.linspace(0, 1, 6))], ["open it"])
    assert verdict.progress == (0.1, 0.1, 0.5, 0.5, 0.9, 0.9) and verdict.completed_at == 5


@pytest.mark.parametrize(
    "reply",
    [
        answer([0.1, 0.2, 0.3, 0.4, 0.5], [0.0] * 5),
        answer([], []),
        answer([0.1, float("nan")], [0.1, 0.2]),
        answer([0.1, 0.2], [0.1, 1.5]),
        answer([0.1, 7.0], [0.1, 0.2]),
        answer([0.1, True], [0.1, 0.2]),
        answer([0.1, "0.2"], [0.1, 0.2]),
        answer([[0.1], [0.2]], [0.1, 0.2]),
        answer({"0": 0.1}, [0.1, 0.2]),
        (200, json.dumps({"outputs_progress": {"progress_pred": []}, "outputs_success": {"success_probs": []}})),
        (200, json.dumps({"outputs_progress": {"progress_pred": None}, "outputs_success": {"success_probs": None}})),
        (200, json.dumps({"outputs_progress": {"progress_pred": [[0.5], [0.5]]}, "outputs_success": {}})),
    ],
)
def test_an_answer_of_another_form_is_an_abstention_and_never_a_failure(server: Server, reply: Answer) -> None:
    robometer = judge(server)
    robometer.judge([film(0.1, 0.2)], ["open it"])
    server.script = lambda n, request: reply
    try:
        (verdict,) = robometer.judge([film(0.1, 0.9, 0.9, 0.9)], ["open it"])
    except JudgeError as error:
        assert "outputs_success.success_probs" in str(error)
    else:
        assert verdict.score is None and verdict.grade is None and verdict.progress == ()
        assert "outputs_" in verdict.reason


def test_what_a_damaged_cache_holds_is_not_read() -> None:
    good = json.dumps({"progress": [0.0, 1.0], "success": [0.5, 0.5]})
    progress, success = read_frames(good, 4) or (None, None)
    assert progress is not None and progress.tolist() == [0, 0, 1, 1] and success is not None
    for text in ("", "{}", "[]", good.replace("1.0", "1.1"), good.replace("1.0", "[1]"), good.replace("1.0", '"x"')):
        assert read_frames(text, 4) is None
    assert read_frames(good, 1) is None


@pytest.mark.parametrize(
    ("reply", "requests", "told"),
    [
        ((200, json.dumps({"outputs_progress": {"progress_pred": [[0.1]]}, "outputs_success": None})), 1, "both heads"),
        ((200, "<html><title>Sign in</title></html>"), 3, "Sign in"),
        ((404, json.dumps({"detail": "Not Found"})), 1, "Not Found"),
        ((422, json.dumps({"detail": "no frames"})), 2, "no frames"),
        ((500, "Internal Server Error"), 3, "status 500"),
        ((200, b"[" * 100_000), 3, "no JSON"),
        ((200, b" " * (5 << 20)), 2, "longer than"),
        (None, 3, "Timeout"),
    ],
)
def test_what_never_works_ends_the_run_in_the_server_s_words(
    server: Server, reply: Answer, requests: int, told: str
) -> None:
    server.script = lambda n, request: reply
    robometer = judge(server, timeout_s=0.3 if reply is None else 5.0)
    with pytest.raises(JudgeError, match=told) as error:
        robometer.judge([film(0.1, level) for level in (0.2, 0.3, 0.4, 0.5)], ["open it"] * 4)
    assert "\n" not in str(error.value) and server.url in str(error.value) and len(server.requests) == requests


def test_passing_faults_are_asked_again_and_a_pause_is_kept(server: Server) -> None:
    faults: list[Answer] = [(503, "down"), (429, "{}", {"Retry-After": "0.2"})]
    server.script = lambda n, request: faults[n] if n < 2 else answer(brightness(request))
    assert judge(server).judge([film(0.1, 0.9, 0.9)], ["open it"])[0].completed is True
    assert len(server.requests) == 3


def test_answers_are_cached_kept_raw_and_asked_once_for_the_same_film(server: Server, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"cache": tmp_path / "cache", "raw": tmp_path / "raw.jsonl"}
    first = judge(server, **fields).judge([film(0.1, 0.9)] * 3, ["open it", "open it", "close it"])
    again = judge(server, **fields).judge([film(0.1, 0.9)] * 3, ["open it", "open it", "close it"])
    assert first == again and len(server.requests) == 2
    lines = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert [line["cached"] for line in lines] == [False, False, True, True]
    assert json.loads(lines[0]["answer"])["success"] == pytest.approx([0.1, 0.9], abs=0.01)


def test_a_key_goes_out_in_its_header_and_reaches_no_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOMETER_API_KEY", KEY)
    server.script = lambda n, request: (400, json.dumps({"detail": f"you sent Authorization: Bearer {KEY}"}))
    with pytest.raises(JudgeError) as error:
        judge(server, raw=tmp_path / "raw.jsonl").judge([film(0.1, 0.2)] * 2, ["open it", "close it"])
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY[:9] not in str(error.value) + (tmp_path / "raw.jsonl").read_text()
    monkeypatch.delenv("ROBOMETER_API_KEY")
    server.script = lambda n, request: answer(brightness(request))
    judge(server).judge([film(0.1, 0.2)], ["open it"])
    assert "authorization" not in server.headers[-1]


def test_the_station_file_and_the_doctor_know_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def station(**judging: Any) -> StationConfig:
        content = {"name": "x", "tasks": {"t": {"instruction": "any"}}, "judge": {"kind": "robometer", **judging}}
        return parse_config(StationConfig, content, "x.yaml")

    made = load_judge(station(base_url=server.url), run_folder=tmp_path / "run")
    assert isinstance(made, RobometerJudge) and made.tells_progress
    made.judge([film(0.1, 0.9, 0.9)], ["any"])
    assert (tmp_path / "run" / "judge_answers.jsonl").exists()
    assert check_judge(station(base_url=server.url)).status == "ok"
    assert models_of(station(base_url=server.url))["judge"] == f"robometer {server.url}"
    for wrong, told in (
        ({}, "judge.base_url: found nothing"),
        ({"base_url": f"{server.url}/evaluate_batch_npy"}, "added"),
    ):
        assert check_judge(station(**wrong)).status == "missing"
        with pytest.raises(JudgeError, match=told):
            load_judge(station(**wrong))


def test_practice_learns_from_its_progress_where_nothing_succeeds(server: Server, tmp_path: Path) -> None:
    def look(n: int, request: dict[str, Any]) -> Answer:
        sample = json.loads(request["sample_0"])
        frames = np.load(io.BytesIO(request[sample["trajectory"]["frames"]["__numpy_file__"]]))
        small = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA) for one in frames])
        return answer(locate(small)[:, 0].clip(0, 1), [0.1] * len(frames))

    server.script = look
    config = GRPOConfig(
        groups=2, min_groups=1, group_size=6, horizon=9, temperature=1.0, progress_credit=1.0, progress_by="chunk"
    )
    policy, run = PointPolicy(), RunFolder(tmp_path, None, False)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), judge(server), point_starts(2), config, run)
    metrics = trainer.step()
    assert metrics["usable_groups"] == 1.0 and 0.2 < metrics["mean_reward"] < 0.9 and metrics["abstentions"] == 0
    assert all(value == 0.0 for name, value in metrics.items() if name.startswith("success/"))


def test_a_server_that_keeps_sending_a_little_is_given_up(server: Server) -> None:
    server.drip_s = 0.05
    began = time.monotonic()
    with pytest.raises(JudgeError, match="no whole answer within"):
        judge(server, timeout_s=0.3).judge([film(0.1, 0.2)], ["open it"])
    assert in_time(10.0, began)

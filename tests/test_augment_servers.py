"""Models behind servers augment starts: what they change is checked and put back, and their faults cost no frame."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stamina

from benchmarks.openai_server import Answer, Server, chat_answer
from gymnast_core.cli import main
from gymnast_core.data.frames import read_image
from gymnast_core.rollout.starts import read_starts
from gymnast_core.workflows.augment_asking import CHECKED, FEASIBLE_LINES, PAPER, read_check, read_proposals
from tests.test_augment import arm_and_box, write_starts

KEY = "sk-never-in-a-file"
YES = "\n".join(f"{name}: yes" for name in CHECKED) + "\nREASON: a tin was added"
HTML = "<html><title>Sign in</title></html>"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    cv2.imwrite("mask.png", arm_and_box().astype(np.uint8) * 255)
    write_starts(tmp_path / "starts", 2)
    running = Server()
    with stamina.set_testing(True, attempts=5, cap=True):  # no waiting between attempts
        yield running
    running.close()


def run(server: Server, *words: str, out: str = "out") -> int:
    urls = ["--judge.base-url", server.url]
    common = ["--out", out, "--starts", "starts", "--mask", "mask.png", "--by", "model", "--attempts", "2"]
    return main(["augment", "distractors", *common, "--editor.base-url", server.url, *urls, *words])


def edit_of(request: dict[str, Any], shape: tuple[int, int] = (1024, 1024), spare: bool = False) -> str:
    """The frame with a blue thing where the mask allows it, and, unless `spare`, green over arm, box and wall."""
    frame = cv2.imdecode(np.frombuffer(request["image"], np.uint8), cv2.IMREAD_COLOR)
    mask = cv2.imdecode(np.frombuffer(request["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
    free = mask[..., 3] == 0
    assert frame.shape == (1024, 1024, 3) and mask.shape == (1024, 1024, 4) and free.any() and not free[:200].any()
    if not spare:
        frame[~free] = (0, 255, 0)
    frame[700:800, 700:800] = (255, 0, 0)
    ok, content = cv2.imencode(".png", cv2.resize(frame, shape))
    assert ok
    return base64.b64encode(content.tobytes()).decode()


def image_answer(text: str, **more: Any) -> Answer:
    usage = {"input_tokens": 500, "output_tokens": 1000}
    return 200, json.dumps({"created": 0, "data": [{"b64_json": text, **more}], "usage": usage})


def by_kind(edit: Callable[[dict[str, Any]], Answer], check: Answer = YES) -> Callable[[int, dict[str, Any]], Answer]:
    return lambda number, request: edit(request) if "image" in request else check


def test_what_a_model_changed_outside_the_bare_table_is_put_back_and_said(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script = by_kind(lambda request: image_answer(edit_of(request)))
    assert run(server) == 0
    told = " ".join(capfd.readouterr().err.split())
    assert "in 2 frames the model had changed more than bare table" in told and "editor: 2 requests" in told
    edits = [request for request in server.requests if "image" in request]
    checks = [request for request in server.requests if "messages" in request]
    assert len(edits) == len(checks) == 2 and {"/v1/images/edits", "/v1/chat/completions"} == set(server.paths)
    assert b"lift the box" in edits[0]["prompt"] and edits[0]["size"] == b"1024x1024"
    assert sum(part["type"] == "image_url" for part in checks[0]["messages"][0]["content"]) == 2
    summary = json.loads((tmp_path / "out" / "augmented.json").read_text())
    for name, lineage in summary["starts"].items():
        made, source = read_image(tmp_path / "out" / name), read_image(lineage["source"])
        assert (made == source)[arm_and_box()].all() and (made == source)[:20].all()
        assert (made[68:72, 68:72, 2] > 240).all(), "and what was added to the table is there"
        assert lineage["put_back"] and lineage["changed_outside"] > 0.5 and lineage["model"] == "gpt-image-1"
        assert "lift the box" in lineage["prompt"] and lineage["check"]["reason"] == "a tin was added"
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    server.requests.clear()
    assert run(server) == 0 and run(server, out="again") == 0 and not server.requests, "the cache has all answers"


def test_a_page_a_limit_a_wrong_size_and_a_damaged_picture_are_tried_again(server: Server, tmp_path: Path) -> None:
    seen: list[str] = []

    def edit(request: dict[str, Any]) -> Answer:
        fault = len(seen)
        good = edit_of(request, spare=True)
        seen.append(good)
        return [
            (429, '{"error": {"message": "slow down"}}'),
            (200, HTML),
            image_answer(base64.b64encode(HTML.encode()).decode()),
            image_answer(edit_of(request, (1536, 1024))),
            image_answer(edit_of(request, (512, 512), spare=True)),
            image_answer(base64.b64encode(base64.b64decode(good)[:4000]).decode()),
            image_answer(good),
        ][min(fault, 6)]

    server.script = by_kind(edit)
    assert run(server, "--editor.concurrency", "1") == 0
    assert len(seen) == 7 and len(read_starts(tmp_path / "out")) == 2
    summary = json.loads((tmp_path / "out" / "augmented.json").read_text())
    assert not any(one["put_back"] for one in summary["starts"].values())


def test_a_frame_that_is_refused_or_fails_the_check_is_left_out_with_the_reason(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first: list[bytes] = []

    def edit(request: dict[str, Any]) -> Answer:
        first.append(request["image"])
        if request["image"] == first[0]:
            return image_answer(edit_of(request))
        return 400, '{"error": {"code": "moderation_blocked", "message": "rejected by the safety system"}}'

    server.script = by_kind(edit, YES.replace("TASK POSSIBLE: yes", "**Task possible**: no"))
    assert run(server, "--editor.concurrency", "1") == 1
    left = json.loads((tmp_path / "out" / "augmented.json").read_text())["left_out"]
    assert [one["why"].split(":")[0] for one in left] == ["not passed", "status 400"]
    assert "task possible: no" in left[0]["why"] and "safety system" in left[1]["why"]
    assert not list((tmp_path / "out").rglob("*.png"))
    server.script = by_kind(lambda request: image_answer(base64.b64encode(request["image"]).decode()))
    assert run(server, "--fewest", "5", "--most", "5", out="same") == 1
    assert "changed 0.0% of the bare table" in " ".join(capfd.readouterr().err.split())
    server.script = by_kind(lambda request: image_answer(edit_of(request)), "I cannot tell.")
    assert run(server, "--fewest", "4", "--most", "4", out="unread") == 1
    assert "no readable answer to 'robot and task objects" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("answer", "words", "said"),
    [
        ((401, '{"error": {"message": "Incorrect API key"}}'), (), "editor: http"),
        ((200, '{"data": [{"url": "http://a/b.png"}]}'), (), "sends a link in place of the picture (b64_json)"),
        (None, ("--editor.max-dollars", "0.01"), "raise editor.max_dollars to go on"),
    ],
)
def test_what_lasts_ends_the_run_in_one_line(
    server: Server, capfd: pytest.CaptureFixture[str], answer: Answer, words: tuple[str, ...], said: str
) -> None:
    server.script = by_kind(lambda request: answer)
    assert run(server, *words) == 2
    told = capfd.readouterr().err
    assert said in told and KEY not in told and len(server.requests) <= 1


def test_fields_that_a_server_does_not_know_are_found_out_by_its_refusal(server: Server, tmp_path: Path) -> None:
    def edit(request: dict[str, Any]) -> Answer:
        for name in ("response_format", "size"):
            if name in request:
                return 400, json.dumps({"error": {"message": f"Unknown parameter: '{name}'."}})
        return image_answer(edit_of(request))

    server.script = by_kind(edit)
    assert run(server, "--editor.model", "other", "--editor.concurrency", "1", "--check", "none") == 0
    assert len(read_starts(tmp_path / "out")) == 2 and len(server.requests) == 4


def test_instructions_are_proposed_from_the_frame_and_each_is_checked(server: Server, tmp_path: Path) -> None:
    proposals = ["Lift the BOX", "push the box left.", "Push  the box left", "", "fly\nhome", "open the window"]
    asked: list[str] = []

    def script(number: int, request: dict[str, Any]) -> Answer:
        text = request["messages"][0]["content"][-1]["text"]
        asked.append(text)
        if "JSON list" in text:
            assert all(one in text for one in PAPER)
            return 200, chat_answer(f"I see [a box].\n```json\n{json.dumps(proposals)}\n```")
        yes = "no" if "window" in text else "yes"
        return "\n".join(f"{name}: {yes}" for name in FEASIBLE_LINES) + "\nREASON: seen"

    server.script = script
    words = ["--by", "model", "--judge.base-url", server.url, "--candidates", "put the box on the wall"]
    assert main(["augment", "instructions", "--starts", "starts", "--out", "out", *words]) == 0
    made = read_starts(tmp_path / "out")
    assert [one.instruction for one in made].count("push the box left") == 2
    assert {one.instruction for one in made} == {"push the box left", "put the box on the wall"}
    assert sum("somebody wants" in text.lower() for text in asked) == 2 * 3, "each that is usable, once for each frame"
    before = len(asked)
    assert main(["augment", "instructions", "--starts", "starts", "--out", "out", *words]) == 0 and len(asked) == before


def test_answers_are_read_strictly() -> None:
    assert read_check(YES, CHECKED).passed and read_check(YES.replace(": yes", " - **YES**"), CHECKED).passed
    assert read_check(YES.replace("yes", "no", 1), CHECKED).passed is False
    for text in ("", "yes", YES.replace("TASK POSSIBLE: yes", ""), f"{YES}\nTASK POSSIBLE: no"):
        assert read_check(text, CHECKED).passed is None
    assert read_proposals('[1] and then ["a b", "c"]') == ["a b", "c"]
    for text in ("", "a, b", "[1, 2]", '{"a": "b"}', "[" * 5000, '["a"'):
        assert read_proposals(text) is None

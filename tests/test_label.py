"""`gymnast data label`: by lines and on a page, for every format, resumed after a kill; logs are never touched."""

from __future__ import annotations

import http.client
import io
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

import cv2
import numpy as np
import pytest

from gymnast_core.cli import main
from gymnast_core.data.formats import find_all, open_episode
from gymnast_core.data.labels import BY_PERSON, label_file, read_label
from tests.machine import HANG_S, overdue
from tests.test_formats import made, write_worldgym, written
from tests.test_outcomes import write


def files_of(root: Path) -> dict[Path, bytes]:
    """What lies below a folder, labels left out."""
    found = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith("label.json"))
    return {path: path.read_bytes() for path in found}


def start(*words: object, stdin: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gymnast_core.cli", "data", "label", *map(str, words)]
    return subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True, env={**os.environ})


def label(monkeypatch: pytest.MonkeyPatch, lines: str, *words: object) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return main(["data", "label", *map(str, words)])


def test_episodes_of_every_format_are_labelled_and_their_logs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "gymnast", 6, True, outcome_by="classifier", judge="classifier", judge_score=1.0, completed_at=5)
    written("pictures")(tmp_path / "pictures", made(1))
    write_worldgym(tmp_path / "film", made(0))
    open_recording(tmp_path / "open")
    before = files_of(tmp_path)
    assert label(monkeypatch, "s 4\nf\nu\n", "--data", tmp_path, "--who", "Ada") == 0
    assert files_of(tmp_path) == before
    outcomes = {episode.name: episode.outcome() for episode in find_all(tmp_path)}
    assert {outcomes[name].by for name in ("gymnast", "pictures", "film")} == {BY_PERSON}
    told = capsys.readouterr().err
    order = [line.split()[3] for line in told.splitlines() if re.match(r"\d of 3  ", line)]
    assert [outcomes[Path(path).stem].success for path in order] == [True, False, None]
    first = read_label(order[0])
    assert first is not None and (first.step, first.who) == (4, "Ada") and label_file(order[2]).is_file()
    assert "success from frame 5, agrees" in told and "open: is being recorded" in told
    assert "the judge 'classifier' agrees with 1 of 1 labels" in told and "1 steps apart" in told
    assert told.splitlines()[-1].startswith("next: gymnast judge train --data ")


def open_recording(folder: Path) -> None:
    """An episode whose recording has not ended."""
    write(folder, 2)
    header = json.loads((folder / "episode.json").read_text())
    (folder / "episode.json").write_text(json.dumps({**header, "status": "recording"}))


def test_a_killed_session_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / str(number), 4)
    process = start("--data", tmp_path)
    assert process.stdin is not None
    process.stdin.write("s 2\n")
    process.stdin.flush()
    began = time.monotonic()
    while not (tmp_path / "0" / "label.json").exists():
        assert process.poll() is None and not overdue(60.0, began)
        time.sleep(0.02)
    process.kill()
    process.communicate()
    again = start("--data", tmp_path)
    told = again.communicate("f\nb\nx\ns\nf\n", timeout=HANG_S)[1]
    assert again.returncode == 0, told
    assert "3 episodes, 1 of them labelled" in told and "2 of 3  " in told and "3 of 3 episodes labelled" in told
    labels = [read_label(tmp_path / str(number)) for number in range(3)]
    assert [one and one.words for one in labels] == ["success after 2 steps", "success", "failure"]


@pytest.mark.parametrize(("lines", "wrong"), [("f\nyes\ns\n", "found 'yes'"), ("f\ns 5\ns\n", "allowed are 0 to 4")])
def test_a_line_that_is_none_ends_a_script_before_it_labels_the_wrong_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, wrong: str
) -> None:
    for number in range(3):
        write(tmp_path / str(number), 4)
    assert label(monkeypatch, lines, "--data", tmp_path) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and wrong in errors[0]
    assert [label_file(tmp_path / str(number)).exists() for number in range(3)] == [True, False, False]


class Page:
    """A labelling page in a process of its own, and a client of it."""

    def __init__(self, *words: object) -> None:
        self.process = start(*words, "--page", stdin=subprocess.DEVNULL)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)(/[\w-]+/)", line):
                break
        else:
            raise AssertionError("no address")
        self.port, self.root = int(found[1]), found[2]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, sent, {**kind, **headers})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, content

    def json(self, path: str, body: Any = None) -> Any:
        status, content = self.ask(self.root + path, body)
        return {"status": status, **json.loads(content)}


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    for number in range(2):
        write(tmp_path / str(number), 4, True, outcome_by="vlm", judge="vlm", judge_score=1.0)
    found = Page("--data", tmp_path)
    yield found
    found.process.kill()
    found.process.communicate()


def test_the_page_shows_the_film_labels_at_once_and_tells_the_judge_only_afterwards(page: Page, tmp_path: Path) -> None:
    status, content = page.ask(page.root)
    assert status == 200 and b"<script>" in content
    assert page.json("session") == {"status": 200, "labelled": [False, False], "next": 0, "agreement": []}
    shown = page.json("episode/0")
    assert shown["frames"] == 5 and shown["label"] == "" and shown["said"] == [], "nobody is led by the judge"
    png = page.ask(f"{page.root}frame/0/3")[1]
    frame = cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(frame, open_episode(tmp_path / "0").frame(3))
    told = page.json("label/0", {"success": False, "step": None})
    assert told["label"] == "failure" and told["said"] == ["the judge 'vlm': success, disagrees"]
    kept = read_label(tmp_path / "0")
    assert kept is not None and kept.success is False
    assert page.json("label/0", {"success": True, "step": 2})["label"] == "success after 2 steps"
    session = page.json("session")
    assert session["next"] == 1 and "agrees with 1 of 1" in session["agreement"][0]
    assert page.json("clear/0", {})["label"] == "" and not label_file(tmp_path / "0").exists()
    page.json("label/1", {"success": None})
    page.json("end", {})
    assert page.process.stderr is not None
    told = page.process.communicate(timeout=HANG_S)[1]
    assert page.process.returncode == 0 and "1 of 2 episodes labelled" in told and "next: gymnast data label" in told


def test_the_page_answers_nobody_else_and_refuses_what_it_does_not_know(page: Page, tmp_path: Path) -> None:
    assert page.ask("/guess/session")[0] == 404 and page.ask("/")[0] == 404
    assert page.ask(f"{page.root}session", Host=f"evil.example:{page.port}")[0] == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert page.ask(f"{page.root}label/0", {"success": True}, **form)[0] == 400
    for path, body, words in (
        ("frame/0/5", None, "allowed are 0 to 4"),
        ("frame/2/0", None, "allowed are 0 to 1"),
        ("frame/../0", None, "found"),
        ("label/0", {"success": 1}, "success: found 1"),
        ("label/0", {"success": True, "step": 5}, "allowed are 0 to 4"),
        ("label/0", {"success": True, "step": True}, "step: found True"),
        ("label/0", {"success": False, "step": 1}, "no success"),
        ("label/0", {"success": True, "path": "/etc"}, "found 'path'"),
        ("files", None, "no such thing"),
    ):
        found = page.json(path, body)
        assert found["status"] == 400 and words in found["error"], found
    assert not list(tmp_path.rglob("label.json"))
    taken = start("--data", tmp_path, "--page", "--port", page.port, stdin=subprocess.DEVNULL)
    told = taken.communicate(timeout=HANG_S)[1]
    assert taken.returncode == 2 and f"error: port {page.port}: " in told and "Traceback" not in told
    page.process.send_signal(signal.SIGINT)
    assert "0 of 2 episodes labelled" in page.process.communicate(timeout=HANG_S)[1] and page.process.returncode == 0

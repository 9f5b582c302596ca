"""The console without ROS, in another process: who may look and press, what a page shows of folders, and its cost."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gymnast_core.config import CanaryConfig
from gymnast_core.evaluation.session import TRIALS_LOG
from gymnast_core.files import append_line
from gymnast_core.protocols import Start, Verdict
from gymnast_core.reporting.imagined_films import FILMS, read_films
from gymnast_core.rl.films import MOST, ImaginedFilms
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.run_folder import RunFolder
from gymnast_core.serve.console.records import Lines, Records
from gymnast_core.serve.console.tokens import FILE, Access, console_token
from gymnast_core.serve.refusal import Refusal
from tests.console_station import QUESTION, VARIABLE
from tests.machine import in_time
from tests.serving import Served, serving

MODULE = ("-m", "tests.console_station")
TOKEN = "token-of-the-console"
JSON = {"Content-Type": "application/json"}
MINE = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Asked:
    """A console's server, and what its buttons asked for."""

    served: Served
    log: Path
    runs: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, content (JSON where it is) and headers of an answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=60)
        link.request(method, path, None if body is None else json.dumps(body), headers)
        answer = link.getresponse()
        content, found = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        link.close()
        return answer.status, json.loads(content) if found.get("content-type") == "application/json" else content, found

    def press(self, name: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, content, _ = self.ask("POST", f"/api/{name}", body or {}, **{**JSON, **MINE, **headers})
        return status, content

    @property
    def asked(self) -> list[Any]:
        """What was asked for, since the last look."""
        found = [json.loads(text) for text in self.log.read_text().splitlines()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("console")
    station = {
        "name": "bench",
        "tasks": {"open": {"instruction": "open the drawer"}},
        "recorder": {"folder": str(folder / "runs" / "episodes")},
        "evaluation": {"reference_view": "none.png"},
        "models": {"adapters": str(folder / "adapters")},
    }
    (folder / "station.yaml").write_text(yaml.safe_dump(station))
    (folder / "runs").mkdir()
    words = (str(folder / "station.yaml"), str(folder / "log"))
    with serving(*words, module=MODULE, **{VARIABLE: TOKEN}) as served:
        yield Asked(served, folder / "log", folder / "runs")
        assert served.end(10.0) == 0 and "Traceback" not in served.output.read_text()


def test_whoever_reaches_the_page_may_look_and_only_the_token_may_act(console: Asked) -> None:
    status, page, headers = console.ask("GET", "/")
    assert status == 200 and b"STOP" in page and "default-src 'none'" in headers["content-security-policy"]
    assert console.ask("GET", "/", **{"If-None-Match": headers["etag"]})[0] == 304
    for name in ("console.css", "console.js", "charts.js", "runs.js"):
        status, text, _ = console.ask("GET", f"/{name}")
        foreign = set(re.findall(rb"https?://[^\"' ]+", text)) - {b"http://www.w3.org/2000/svg"}
        assert status == 200 and not foreign
    state = console.ask("GET", "/api/state")[1]
    assert state["may_act"] is False and state["question"] == QUESTION and state["arm"]["load"][1] is None
    assert console.ask("GET", "/api/state", **MINE)[1]["may_act"] is True
    status, picture, headers = console.ask("GET", "/api/picture/camera")
    assert status == 200 and picture[:3] == b"\xff\xd8\xff"
    assert console.ask("GET", "/api/picture/camera", **{"If-None-Match": headers["etag"]})[0] == 304
    assert console.ask("GET", "/api/picture/policy")[0] == 204 and console.ask("GET", "/api/picture/else")[0] == 404
    assert console.ask("GET", "/api/reference")[1] == {
        "detail": "the station file names no reference photograph (evaluation.reference_view)"
    }
    order = {"task": "open", "iterations": 3}
    assert console.press("practise", order, Authorization="")[1]["detail"].startswith("found no token")
    assert console.press("practise", order, Authorization="Bearer nearly")[0] == 401
    assert console.press("practise", order, Authorization="Bearer nearlyé".encode().decode("latin-1"))[0] == 401
    assert console.asked == []
    assert console.press("practise", order) == (200, {"message": "practise done"})
    ((name, what),) = console.asked
    assert name == "practise" and what["iterations"] == 3 and what["execute"] and not what["reset"]


def test_the_stop_needs_no_token_on_this_machine_and_waits_for_no_other_button(console: Asked) -> None:
    go = console.log.with_suffix(".go")
    waiting = [threading.Thread(target=console.press, args=("capture",)) for _ in range(8)]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    began = time.monotonic()
    status, answer = console.press("stop", {"reason": "a cable"}, Authorization="")
    assert in_time(0.1, began), f"the stop took {time.monotonic() - began:.3f} s"
    assert (status, answer) == (200, {"message": "stop done"}) and ["stop", "a cable", {}] in console.asked
    go.touch()
    for thread in waiting:
        thread.join(60.0)
    assert len(console.asked) == 8
    go.unlink()


@pytest.mark.parametrize("name", ["stop", "practise", "rearm"])
def test_no_other_page_presses_a_button(console: Asked, name: str) -> None:
    own = f"http://127.0.0.1:{console.served.port}"
    assert console.press(name, {}, Origin="http://elsewhere.example")[0] == 403
    assert console.press(name, {}, Host="elsewhere.example")[0] == 403
    assert console.press(name, {}, **{"Content-Type": "text/plain"})[0] == 415
    assert console.asked == []
    assert console.press("stop", {}, Origin=own)[0] == 200 and console.asked
    assert console.ask("GET", "/api/state", Host="elsewhere.example")[0] == 403
    assert console.ask("GET", "/api/state", Host=f"{socket.gethostname()}:{console.served.port}")[0] == 200


def test_re_arming_asks_twice_and_each_confirmation_counts_once(console: Asked) -> None:
    status, first = console.press("rearm")
    assert status == 200 and first["message"].startswith("look at the arm") and console.asked == []
    assert console.press("rearm", {"confirm": "made up"})[0] == 400 and console.asked == []
    assert console.press("rearm", {"confirm": first["confirm"]}) == (200, {"message": "rearm done"})
    assert console.press("rearm", {"confirm": first["confirm"]})[0] == 400 and console.asked == [["rearm", {}]]


@pytest.mark.parametrize(
    "name, body, words",
    [
        ("practise", {"task": "fly"}, "unknown task 'fly'; station 'bench' has: open"),
        ("practise", {"task": "open", "iterations": -1}, "practise: iterations: found -1; Input should be greater"),
        ("practise", {"task": "open", "speed": 3}, "practise: unknown field 'speed'"),
        ("reset", {"task": 3}, "reset: task: found 3"),
        ("answer", {}, "answer: question: found nothing"),
        ("cancel", {"all": True}, "cancel: unknown field 'all'"),
        ("run", [1], "found list, needed a JSON object"),
    ],
)
def test_a_wrong_order_is_one_clear_line(console: Asked, name: str, body: Any, words: str) -> None:
    status, answer = console.press(name, body)
    assert status == 400 and answer["detail"].startswith(words), answer
    assert console.asked == []


def test_what_the_station_refuses_is_told_in_its_words(console: Asked) -> None:
    assert console.press("run", {"task": "open"}) == (
        409,
        {"detail": "action executor/run_episode refused the goal: another one is under way"},
    )
    assert console.press("answer", {"question": QUESTION})[0] == 200 and console.asked


def imagined(score: float | None, value: int) -> Rollout:
    nothing = np.empty(0, np.float32)
    return Rollout(
        Start("open the drawer"), nothing, nothing, nothing, nothing, nothing, nothing, 3, nothing, 0.0, (), nothing,
        Verdict(score, 0.8, "it is open"), np.full((5, 32, 32, 3), value, np.uint8), meters={"round trip": 0.25},
    )  # fmt: skip


def test_films_of_a_practice_appear_while_it_goes_on_and_their_number_is_bounded(console: Asked) -> None:
    run = RunFolder(console.runs / "adapt" / "20260101_first")
    run.report_progress("train", 1, 20, seconds_left=60.0)
    films = ImaginedFilms(run)
    films.keep("train", 1, [imagined(1.0, 10), imagined(0.0, 60), imagined(None, 200)])
    run.log(1, {"mean_reward": 0.5, "usable_groups": 0.25})

    def practice() -> Any:
        return console.ask("GET", "/api/records")[1]["practice"]

    began = time.monotonic()
    while not (found := practice()) or found["film_count"] < 3:
        assert in_time(10.0, began)
        time.sleep(0.1)
    assert found["verdicts"] == {"success": 1, "failure": 1, "abstained": 1} and found["curve"] == [[1, 0.5, 0.25]]
    assert found["films"][0]["meters"] == {"round trip": 0.25} and found["phase"] == "train"
    place = f"/api/film/{run.path.name}/{found['films'][1]['film']}"
    status, strip, headers = console.ask("GET", place)
    assert status == 200 and strip[:3] == b"\xff\xd8\xff" and headers["content-type"] == "image/jpeg"
    for name in ("../config.yaml", "..%2fprogress.jsonl", "film_9999.jpg"):
        assert console.ask("GET", f"/api/film/{run.path.name}/{name}")[0] == 404
    again = ImaginedFilms(run)  # a resumed run
    for update in range(2, 2 + MOST // 3):
        again.keep("train", update, [imagined(1.0, 10), imagined(0.0, 60), imagined(None, 200)])
    kept = read_films(run.path)
    assert len(list((run.path / FILMS).iterdir())) == MOST == len(kept) and kept[-1]["number"] == MOST + 2


def test_past_runs_are_listed_opened_in_a_sandbox_and_compared(console: Asked) -> None:
    for number, success in enumerate((0.25, 0.75)):
        folder = console.runs / "adapt" / f"2025010{number}_past"
        run = RunFolder(folder, tensorboard=False)
        run.log(1, {"mean_reward": success})
        run.write_result({"accepted": True, "adapter_id": "it", "success_before": 0.1, "success_after": success})
        (folder / "report.html").write_text("<script>steal()</script>")
    (console.runs.parent / "secret.html").write_text("secret")
    listed = {entry["path"]: entry for entry in console.ask("GET", "/api/runs")[1]["runs"]}
    first, second = "adapt/20250100_past", "adapt/20250101_past"
    assert listed[first]["success"] == 0.25 and listed[second]["outcome"] == "accepted"
    status, page, headers = console.ask("GET", f"/api/runs/report?path={first}")
    assert status == 200 and b"steal" in page and headers["content-security-policy"].startswith("sandbox; default-src")
    status, page, headers = console.ask("GET", f"/api/runs/compare?path={first}&path={second}")
    assert status == 200 and b"mean_reward" in page and headers["content-security-policy"].startswith("sandbox;")
    for query in ("report?path=../secret.html", "report?path=..", "picture?path=/etc", f"picture?path={first}"):
        assert console.ask("GET", f"/api/runs/{query}")[0] == 404, query
    assert console.ask("GET", f"/api/runs/compare?path={first}")[0] == 400
    assert console.ask("GET", "/runs")[0] == 200


def test_a_disk_that_takes_no_more_ends_the_films_and_not_the_practice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    (run.path / "media" / "imagined").write_text("in the way")
    films = ImaginedFilms(run)
    films.keep("train", 1, [imagined(1.0, 10)])
    films.keep("train", 2, [imagined(1.0, 10)])
    assert "".join(capsys.readouterr()).count("no more films of imagined rollouts") == 1


def test_canary_and_trials_are_shown_with_their_evidence(tmp_path: Path) -> None:
    folder = tmp_path / "practise" / "20260101_open" / "rounds" / "0" / "canary" / "task"
    folder.mkdir(parents=True)
    (tmp_path / "trials" / "20260102_open").mkdir(parents=True)
    records = Records(tmp_path, CanaryConfig(alpha=0.05))
    for number in range(13):  # six pairs that the adapter wins, and half a pair
        policy = "base" if number % 2 == 0 else "better_one"
        line = {"trial": number, "seed": number // 2, "policy": policy, "outcome": int(policy != "base"), "truth": None}
        line |= {
            "truth": None,
            "judge_score": None,
            "steps": 3,
            "seconds": 1.0,
            "episode_path": "",
            "message": "",
            "task": "open",
        }
        for path in (folder, tmp_path / "trials" / "20260102_open"):
            append_line(path / TRIALS_LOG, json.dumps(line))
    _, content = records.look()
    canary, trials = content["canary"], content["trials"]
    assert canary["adapter"] == "better_one" and canary["pairs"] == [[0.0, 1.0]] * 6 and canary["bound"] == 20.0
    assert canary["better"][0] == 1.0 and canary["better"] == sorted(canary["better"]) and len(canary["worse"]) == 7
    rates = {rate["policy"]: rate for rate in trials["rates"]}
    low, high = rates["better_one"]["interval"]
    assert rates["better_one"]["successes"] == 6 and 0.5 < low < 0.7 and high == 1.0 and rates["base"]["n"] == 7
    version = records.version
    assert records.look()[0] == version


def test_a_log_that_grows_is_read_on_and_one_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = Lines(path)
    assert not lines.look()
    path.write_bytes(b'{"step": 1}\nnot json\n{"step": 2')
    assert lines.look() and [line["step"] for line in lines.all] == [1] and not lines.look()
    with path.open("ab") as stream:
        stream.write(b"}\n")
    assert lines.look() and [line["step"] for line in lines.all] == [1, 2]
    path.write_bytes(b'{"step": 9}\n')
    assert lines.look() and [line["step"] for line in lines.all] == [9]


def test_the_token_is_made_once_and_its_user_alone_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYMNAST_STATE", str(tmp_path))
    first = console_token(VARIABLE)
    assert len(first) >= 32 and console_token(VARIABLE) == first
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600 and os.listdir(tmp_path) == [FILE]
    monkeypatch.setenv(VARIABLE, "my-own")
    assert console_token(VARIABLE) == "my-own"
    monkeypatch.delenv(VARIABLE)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(Exception, match="others can read this token"):
        console_token(VARIABLE)


def test_from_other_machines_even_the_stop_needs_the_token() -> None:
    access = Access(TOKEN)
    headers = {"host": "192.0.2.1:8010", "content-type": "application/json"}
    access.check_host(headers)
    for tokenless in (True, False):
        with pytest.raises(Refusal, match="found no token"):
            access.check_deed(headers, "192.0.2.7", tokenless)
        access.check_deed({**headers, "authorization": f"Bearer {TOKEN}"}, "192.0.2.7", tokenless)
    access.check_deed(headers, "127.0.0.1", tokenless=True)

"""`gymnast queue serve` in another process: users with tokens and limits, bad input, and the verbs over HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gymnast_core.cli import main
from gymnast_core.data.outcome import SUCCESS
from gymnast_core.evaluation.session import TRIALS_LOG
from gymnast_core.files import append_line
from gymnast_core.reporting.media import write_video
from gymnast_core.serve.job_run import close_job
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.job_users import User, Users
from tests.processes import ROOT
from tests.serving import Served, serving

MODULE = ("-m", "gymnast_core.cli", "queue", "serve", "--port", "0")
STATION = str(ROOT / "robot_configs" / "simulated_drawer.yaml")
JOB = {"task": "open_drawer", "trials": 2, "policy": "http://ann.example:8000", "contact": "ann@example.org"}


class Lab:
    """A queue's server, and three users of it."""

    def __init__(self, served: Served, store: JobStore, tokens: dict[str, str]) -> None:
        self.served, self.store, self.tokens = served, store, tokens

    def ask(self, user: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and answer: JSON, or bytes of anything else."""
        link = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=60)
        if user:
            headers["Authorization"] = f"Bearer {self.tokens[user]}"
        link.request(method, path, body if isinstance(body, (bytes, type(None))) else json.dumps(body), headers)
        answer = link.getresponse()
        content = answer.read()
        link.close()
        return answer.status, json.loads(content) if answer.headers["Content-Type"] == "application/json" else content


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    store = JobStore(tmp_path_factory.mktemp("lab") / "queue")
    users = Users(store)
    tokens = {
        "ann": users.set(User("ann", jobs=2, priority=1)),
        "bob": users.set(User("bob")),
        "root": users.set(User("root", owner=True, priority=9)),
    }
    with serving("--queue", str(store.folder), "--config", STATION, "--rate", "0", module=MODULE) as served:
        yield Lab(served, store, tokens)
        assert served.end(10.0) == 0 and "Traceback" not in served.output.read_text()
        assert not any(token in served.output.read_text() for token in tokens.values())


@pytest.fixture(autouse=True)
def empty(lab: Lab) -> Iterator[None]:
    """Afterwards nothing is open, and the queue is not paused."""
    yield
    lab.store.resume()
    while job := lab.store.take():
        lab.store.finish(job.number, "done", "")


def test_a_user_submits_sees_and_cancels_jobs_and_others_learn_little(lab: Lab) -> None:
    status, job = lab.ask("ann", "POST", "/jobs", JOB)
    assert status == 201 and (job["state"], job["user"], job["trials"]) == ("waiting", "ann", 2)
    path = f"/jobs/{job['number']}"
    assert lab.ask("bob", "POST", "/jobs", {"task": "close_drawer", "priority": -3})[0] == 201
    assert lab.ask("ann", "POST", "/jobs", {"task": "close_drawer", "priority": 1})[0] == 201
    status, queue = lab.ask("bob", "GET", "/jobs")
    order = [(one["user"], one["priority"]) for one in queue["jobs"][:3]]
    assert status == 200 and order == [("ann", 1), ("ann", 0), ("bob", -3)]
    for text in (json.dumps(queue), json.dumps(lab.ask("bob", "GET", path)[1])):
        assert "ann.example" not in text and "ann@" not in text
    assert lab.ask("bob", "POST", f"{path}/cancel")[0] == 403
    assert lab.ask("ann", "GET", path)[1]["contact"] == "ann@example.org"
    assert lab.ask("root", "GET", path)[1]["policy"] == "http://ann.example:8000"
    assert lab.ask("ann", "POST", f"{path}/cancel")[1]["state"] == "cancelled"
    status, answer = lab.ask("ann", "POST", f"{path}/cancel")
    assert status == 409 and answer == {"detail": f"job {job['number']}: has ended (cancelled)"}


def test_a_jobs_token_is_kept_for_its_server_and_answered_to_nobody(lab: Lab) -> None:
    status, job = lab.ask("ann", "POST", "/jobs", {**JOB, "policy_token": "of-anns-server"})
    assert status == 201 and lab.store.tokens.of(job["number"]) == "of-anns-server"
    path = f"/jobs/{job['number']}"
    told = [job, *(lab.ask(user, "GET", where)[1] for user in ("ann", "root") for where in ("/jobs", path))]
    assert "of-anns-server" not in json.dumps(told)
    assert lab.ask("ann", "POST", f"{path}/cancel")[0] == 200 and lab.store.tokens.of(job["number"]) == ""
    for more, words in (
        ({"policy_token": 7}, "policy_token: found int, needed text"),
        ({"policy_token": "of anns server"}, "policy_token: holds a space as character 3"),
        ({"policy_token": "of-anns-server", "policy": "base"}, "policy_token: found a token, but policy 'base'"),
    ):
        status, answer = lab.ask("ann", "POST", "/jobs", {**JOB, **more})
        assert status == 400 and words in answer["detail"] and "anns" not in answer["detail"], answer


def test_limits_hold_for_each_user(lab: Lab) -> None:
    assert [lab.ask("ann", "POST", "/jobs", JOB)[0] for _ in range(3)] == [201, 201, 429]
    assert lab.ask("bob", "POST", "/jobs", JOB)[0] == 201
    status, answer = lab.ask("bob", "POST", "/jobs", {**JOB, "priority": 1})
    assert status == 400 and answer["detail"] == "priority: found 1, allowed are -9 to 0 for bob"


def test_the_maintenance_switch_is_for_owners(lab: Lab) -> None:
    for path in ("/pause", "/resume"):
        assert lab.ask("ann", "POST", path, {})[0] == 403
    assert lab.ask("root", "POST", "/pause", {"reason": "new gripper"}) == (200, {"paused": "root: new gripper"})
    assert lab.ask("ann", "GET", "/jobs")[1]["paused"] == "root: new gripper" and lab.store.take() is None
    assert lab.ask("root", "POST", "/resume") == (200, {"paused": ""})


def test_results_come_as_json_with_links_of_videos(lab: Lab) -> None:
    number = lab.ask("ann", "POST", "/jobs", JOB)[1]["number"]
    assert lab.store.take()
    folder = lab.store.job_folder(number)
    for trial in range(2):
        write_video(folder / "videos" / f"trial_{trial:04d}.mp4", np.zeros((3, 32, 32, 3), np.uint8))
        line = {"trial": trial, "seed": trial, "policy": "base", "outcome": SUCCESS, "truth": True}
        line |= {"judge_score": 1.0, "steps": 3, "seconds": 1.0, "episode_path": "", "message": ""}
        append_line(folder / TRIALS_LOG, json.dumps(line))
    close_job(lab.store, number, "done", "")
    job = lab.ask("ann", "GET", f"/jobs/{number}")[1]
    assert (job["state"], job["result"]["successes"], job["result"]["success_rate"]) == ("done", 2, 1.0)
    assert str(lab.store.folder) not in json.dumps(job), "no paths of this machine"
    for trial in job["trial_records"]:
        status, film = lab.ask("ann", "GET", trial["video"])
        assert status == 200 and film == (folder / "videos" / Path(trial["video"]).name).read_bytes()
        assert lab.ask("bob", "GET", trial["video"])[0] == 403
    for name in ("..%2f..%2fresult.json", "%2e%2e/trials.jsonl", "trial_9999.mp4", ".."):
        assert lab.ask("ann", "GET", f"/jobs/{number}/videos/{name}")[0] == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "job: task: found nothing"),
        (b"{", "no JSON"),
        (b"[1]", "found list, needed a JSON object"),
        (b'{"task": "a", "task": "b"}', "'task' stands there twice"),
        ({**JOB, "task": 3}, "task: found 3"),
        ({**JOB, "task": "fold_cloth"}, "unknown task 'fold_cloth'"),
        ({**JOB, "trials": 10**9}, "trials: found 1000000000"),
        ({**JOB, "trials": "5"}, "trials: found '5'"),
        ({**JOB, "trials": True}, "trials: found True"),
        ({**JOB, "policy": "/etc/passwd"}, "policy: found '/etc/passwd'; needed 'base', an adapter's name"),
        ({**JOB, "policy": "file:///etc/passwd"}, "'file' is not spoken"),
        ({**JOB, "policy": "practise"}, "policy: found 'practise'"),
        ({**JOB, "first_seed": -1}, "first_seed: found -1"),
        ({**JOB, "first_seed": 1e400}, "first_seed: found inf"),
        ({**JOB, "contact": "a" * 201}, "contact: found"),
        ({**JOB, "contact": "\ud800"}, "contact: found"),
        ({**JOB, "user": "root"}, "unknown field 'user'"),
    ],
)
def test_a_wrong_job_is_told_what_is_wrong(lab: Lab, body: Any, words: str) -> None:
    status, answer = lab.ask("ann", "POST", "/jobs", body)
    assert status == 400 and words in answer["detail"] and "\n" not in answer["detail"]


def test_whoever_has_no_token_learns_nothing(lab: Lab) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": lab.tokens["ann"]}):
        for method, path in (("GET", "/jobs"), ("POST", "/jobs"), ("GET", "/jobs/1"), ("POST", "/pause")):
            status, answer = lab.ask("", method, path, **headers)
            assert status == 401 and set(answer) == {"detail"}
    assert lab.ask("root", "GET", "/jobs", Origin="http://evil.example")[0] == 403
    assert lab.ask("", "GET", "/health") == (200, {"status": "healthy"})
    assert lab.ask("root", "POST", "/jobs", b"x" * 150_000)[0] == 413
    for number in ("0", "-1", "1e3", "99999999999999999999", "%D9%A3"):
        assert lab.ask("root", "GET", f"/jobs/{number}")[0] == 404


def test_the_verbs_work_over_http(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--queue", lab.served.http)
    monkeypatch.delenv("GYMNAST_QUEUE_TOKEN", raising=False)
    assert main(["queue", "list", *where]) == 2
    assert "answered 401, 'found no token" in capsys.readouterr().err
    monkeypatch.setenv("GYMNAST_QUEUE_TOKEN", lab.tokens["root"])
    assert main(["queue", "submit", "open_drawer", "--trials", "3", "--contact", "me", *where]) == 0
    number = capsys.readouterr().out.strip()
    assert lab.store.job(int(number)).user == "root"
    assert main(["queue", "pause", "tea", *where]) == 0 and lab.store.paused == "root: tea"
    assert main(["queue", "resume", *where]) == 0 and not lab.store.paused
    assert main(["queue", "cancel", number, *where]) == 0
    capsys.readouterr()
    assert main(["queue", "show", number, *where]) == 0
    assert f"{number}  cancelled  0/3 trials" in capsys.readouterr().out
    assert main(["queue", "list", "--queue", "http://127.0.0.1:1"]) == 2
    assert "no queue answers" in capsys.readouterr().err


def test_a_queue_without_users_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "serve", "--queue", str(tmp_path), "--port", "0"]) == 2
    assert "has no users yet; `gymnast queue user NAME`" in capsys.readouterr().err

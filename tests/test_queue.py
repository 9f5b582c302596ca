"""A station's queue at work: real runners on the simulated station, killed, cancelled and paused in mid-work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.films import film_index
from gymnast_core.data.outcome import FAILURE
from gymnast_core.evaluation.comparison_page import write_page_of_one
from gymnast_core.evaluation.resets import ResetReport
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell, TrialRecord, read_records
from gymnast_core.files import read_json_lines
from gymnast_core.policy.scripted import ScriptedPolicy
from gymnast_core.serve import job_run
from gymnast_core.serve.job import Job, JobRequest
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_station import station_of
from tests.policy_server import PolicyServer
from tests.processes import ROOT, wait_for
from tests.serving import serving
from tests.tiny_station import build_tiny_station

SLOW_S = 120.0


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """The queue of a simulated station whose policy is a script, which needs no time to load."""
    path = build_tiny_station(tmp_path, simulated=True)
    np.savez(tmp_path / "script.npz", actions=np.tile(np.float32([0.01, 0, 0, 0, 0, 0, 1]), (50, 1)))
    content = yaml.safe_load(path.read_text())
    content["models"]["policy"] = str(tmp_path / "script.npz")
    content["recorder"] = {"min_free_mb": 0}
    path.write_text(yaml.safe_dump(content))
    made = JobStore(tmp_path / "queue")
    station_of(made, str(path))
    return made


@contextlib.contextmanager
def runner(store: JobStore, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`gymnast queue run`, its output beside the queue; it is killed if it still runs."""
    line = [sys.executable, "-m", "gymnast_core.cli", "queue", "run", "--queue", str(store.folder)]
    with open(store.folder / "runner.txt", "a") as output:
        process = subprocess.Popen(
            [*line, "--over", "simulation", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def submit(store: JobStore, trials: int, **asked: Any) -> Job:
    return store.submit(JobRequest("open_drawer", trials=trials, max_steps=3, **asked), "ann", 9)


def records(store: JobStore, job: Job) -> list[TrialRecord]:
    return read_records(store.job_folder(job.number))


def child_of(process: subprocess.Popen[str]) -> int:
    """The process of the job that a runner runs."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def test_whoever_is_killed_no_trial_is_lost_and_none_is_run_twice(store: JobStore, tmp_path: Path) -> None:
    job = submit(store, 9)
    with runner(store) as process:  # dies with its job
        wait_for(lambda: len(records(store, job)) >= 2, SLOW_S, process)
        process.send_signal(signal.SIGKILL)
    with runner(store) as process:
        wait_for(lambda: len(records(store, job)) >= 5, SLOW_S, process)
        first = [record.episode_path for record in records(store, job)]
        os.kill(child_of(process), signal.SIGKILL)  # the job alone: this runner goes on with it
        wait_for(lambda: store.job(job.number).state == "done", SLOW_S, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SLOW_S) == 0
    done = store.job(job.number)
    assert done.starts >= 3 and (done.trials_done, done.message) == (9, f"{done.successes} of 9 succeeded")
    folder = store.job_folder(job.number)
    lines = read_json_lines(folder / "trials.jsonl")
    assert [line["trial"] for line in lines] == list(range(9)) and [r.seed % 100 for r in records(store, job)] == [
        *range(9)
    ]
    assert [line["episode_path"] for line in lines][: len(first)] == first
    assert len(json.loads((folder / "result.json").read_text())["outcomes"]) == 9
    assert "9 of 9 trials" in (folder / "report.html").read_text()
    assert [film_index(path).count for path in sorted((folder / "videos").iterdir())] == [4] * 9


def test_a_job_is_paused_goes_on_and_is_cancelled_by_people(
    store: JobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--queue", str(store.folder))
    assert main(["queue", "submit", "close_drawer", "--trials", "500", "--max-steps", "3", *where]) == 0
    number = int(capsys.readouterr().out)
    job = store.job(number)
    with runner(store) as process:
        wait_for(lambda: len(records(store, job)) >= 1, SLOW_S, process)
        with runner(store) as second:
            assert second.wait(SLOW_S) == 2, "one runner for one queue"
        assert main(["queue", "pause", "a motor is hot", *where]) == 0
        child = child_of(process)
        wait_for(lambda: not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(), SLOW_S, process)
        assert not Path(f"/proc/{child}").exists() and store.job(number).state == "running"
        before = len(records(store, job))
        capsys.readouterr()
        assert main(["queue", "list", *where]) == 0
        shown = capsys.readouterr().out
        assert "a motor is hot" in shown and f"{before}/500 trials" in shown and "the station is free" in shown
        assert main(["queue", "resume", *where]) == 0
        wait_for(lambda: len(records(store, job)) > before, SLOW_S, process)
        assert main(["queue", "cancel", str(number), *where]) == 0
        wait_for(lambda: store.job(number).state == "cancelled", SLOW_S, process)
    capsys.readouterr()
    assert main(["queue", "show", str(number), "--json", *where]) == 0
    shown = json.loads(capsys.readouterr().out)
    kept = [trial["trial"] for trial in shown["trial_records"]]
    assert kept == list(range(len(records(store, job)))) and len(shown["result"]["outcomes"]) == len(kept)
    assert shown["message"].startswith("cancelled by ") and all(
        Path(t["video"]).exists() for t in shown["trial_records"]
    )
    assert main(["queue", "cancel", str(number), *where]) == 2


def test_a_job_cancelled_while_its_process_starts_is_cancelled(store: JobStore) -> None:
    job = submit(store, 9)
    with runner(store) as process:
        wait_for(lambda: store.job(job.number).state == "running", SLOW_S, process)
        store.cancel(job.number, "ann")
        wait_for(lambda: store.job(job.number).state != "running", SLOW_S, process)
    ended = store.job(job.number)
    assert (ended.state, ended.message, ended.starts) == ("cancelled", "cancelled by ann", 1)


class StillBench:
    """A bench whose every trial takes one step, and whose job is cancelled in the trial `cancelled_in`."""

    def __init__(self, store: JobStore, number: int, cancelled_in: int) -> None:
        self.store, self.number, self.cancelled_in = store, number, cancelled_in

    def check(self, tasks: Sequence[str]) -> None: ...

    def reset(self, task: str, seed: int) -> ResetReport:
        return ResetReport()

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        return "base"

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        if self.cancelled_in == trial.seed % 100:
            self.store.cancel(self.number, "ann")
        return EpisodeOutcome(FAILURE, 1)

    def truth(self, task: str) -> bool | None:
        return None


def test_a_job_asked_to_end_while_it_writes_its_end_is_written_whole(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner sees a cancel when the job has seen it already, and asks: in the midst of the last page."""
    job = submit(store, 9)
    store.take()

    written: list[str] = []

    def asked(*words: Any) -> None:
        written.append(words[-1])
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)
        write_page_of_one(*words)

    monkeypatch.setattr(job_run, "write_page_of_one", asked)
    bench = StillBench(store, job.number, 3)
    station = load_config(StationConfig, store.fact("station"))
    assert job_run.JobRun(store, job.number, station, lambda job, folder: contextlib.nullcontext(bench))()
    ended = store.job(job.number)
    assert (ended.state, ended.message, ended.trials_done) == ("cancelled", "cancelled by ann", 4)
    assert written == ["cancelled by ann"], "once"
    assert "cancelled by ann" in (store.job_folder(job.number) / "report.html").read_text()


def test_a_policy_server_that_fails_costs_its_job_and_the_next_that_fails_pauses_the_queue(store: JobStore) -> None:
    """A server of openpi's interface in another process, which answers NaN where the instruction is so."""
    path = Path(store.fact("station"))
    content = yaml.safe_load(path.read_text())
    content["tasks"]["close_drawer"]["instruction"] = "nan"
    path.write_text(yaml.safe_dump(content))
    with serving(module=("-m", "tests.openpi_server")) as served:
        good = submit(store, 2, policy=served.ws)
        bad, kept = (store.submit(JobRequest("close_drawer", served.ws, 5), "bob", 9) for _ in range(2))
        with runner(store, "--once") as process:
            assert process.wait(SLOW_S) == 1, "paused"
    assert store.job(good.number).state == "done" and [record.steps for record in records(store, good)] == [3, 3]
    assert store.job(bad.number).state == "failed" and len(records(store, bad)) == 3
    for told in (store.job(bad.number).message, store.paused):
        assert "3 trials in a row were stopped by a fault" in told and "found nan at step 0" in told
    assert store.job(kept.number).state == "running" and store.paused.startswith(f"job {kept.number}: ")


def test_a_token_goes_to_its_own_server_and_nothing_shows_it(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GYMNAST_POLICY_TOKEN", "of-this-station")
    own, stranger = (PolicyServer(ScriptedPolicy(np.zeros((50, 7), np.float32))) for _ in range(2))
    path = Path(store.fact("station"))
    content = yaml.safe_load(path.read_text())
    content["models"]["policy"] = own.address
    path.write_text(yaml.safe_dump(content))
    jobs = [submit(store, 1, policy=name) for name in (stranger.address, own.address)]
    with runner(store, "--once") as process:
        assert process.wait(SLOW_S) == 0
    assert stranger.tokens == {None} and own.tokens == {"Bearer of-this-station"}
    monkeypatch.setenv("MINE", "of-ann-alone")
    queue = ("--queue", str(store.folder))
    words = ("--policy", stranger.address, "--policy-token-env", "MINE", "--trials", "3", "--max-steps", "3")
    assert main(["queue", "submit", "open_drawer", *words, *queue]) == 0
    number = jobs[-1].number + 1
    file = store.folder / "tokens" / str(number)
    assert file.read_text() == "of-ann-alone" and file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    stranger.tokens.clear()
    stranger.spoil = lambda actions: b'{"error": "nothing for of-ann-alone"}' if len(stranger.frames) > 3 else None
    monkeypatch.delenv("MINE")
    with runner(store, "--once") as process:
        assert process.wait(SLOW_S) == 0
    own.end()
    stranger.end()
    assert stranger.tokens == {"Bearer of-ann-alone"} and store.job(number).state == "failed"
    assert "nothing for [secret]" in store.job(number).message
    for verb in ("list", "show"):
        main(["queue", verb, *(() if verb == "list" else (str(number),)), *queue])
    told = capsys.readouterr()
    kept = b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    assert "of-ann-alone" not in told.out + told.err and b"of-ann-alone" not in kept and not file.exists()


def test_a_station_that_is_not_there_keeps_the_job_and_pauses_the_queue(store: JobStore) -> None:
    path = Path(store.fact("station"))
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({name: value for name, value in content.items() if name != "simulation"}))
    job = submit(store, 1)
    with runner(store, "--once") as process:
        assert process.wait(SLOW_S) == 1
    assert store.job(job.number).state == "running" and "has no simulation section" in store.paused
    store.cancel(job.number, "ann")  # ends although the queue is paused
    with runner(store, "--once") as process:
        assert process.wait(SLOW_S) == 1
    ended = store.job(job.number)
    assert (ended.state, ended.message, ended.trials_done) == ("cancelled", "cancelled by ann", 0)


def test_wrong_jobs_are_one_line(store: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (("fold_cloth",), "unknown task 'fold_cloth'; station 'tiny' has: close_drawer, open_drawer"),
        (("open_drawer", "--policy", "../policy"), "policy: found '../policy'; needed 'base', an adapter's name"),
        (("open_drawer", "--policy", "ftp://a"), "'ftp' is not spoken, needed http://host:port/path or ws://"),
        (("open_drawer", "--policy", "http://me:word@a"), "a name or password in it"),
        (("open_drawer", "--policy", "look-ahead:nobody"), "there is no such adapter on this station"),
        (("open_drawer", "--policy", "look-ahead:http://a"), "a policy server cannot sample candidates"),
        (("open_drawer", "--policy", "look-ahead-9999:base"), "allowed are 1 to 1024"),
        (("open_drawer", "--policy", "nobody"), "there is no such adapter on this station"),
        (("open_drawer", "--trials", "0"), "trials: found 0"),
        (("open_drawer", "--priority", "10"), "priority: found 10"),
        (("open_drawer", "--contact", "a\nb"), "contact: found"),
        (("open_drawer", "--config", "bridge_widowx"), "is the queue of"),
    ):
        assert main(["queue", "submit", *words, "--queue", str(store.folder)]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    assert store.jobs() == []
    assert main(["queue", "show", "7", "--queue", str(store.folder)]) == 2

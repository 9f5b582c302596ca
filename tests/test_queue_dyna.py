"""At night, while no job waits, a queue's runner lets the station learn; a job that comes goes first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.serve.job import JobRequest
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_dyna import LOG, NIGHT, NightlyDyna, night_of
from gymnast_core.serve.queue_station import station_of
from tests.machine import HANG_S
from tests.processes import wait_for
from tests.tiny_station import build_tiny_station

MIDNIGHT = datetime(2026, 5, 4, 0, 30)


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.tuples(*[st.integers(0, 24)] * 2))
def test_a_night_has_one_name_from_its_first_hour_to_its_last(now: datetime, hours: tuple[int, int]) -> None:
    begin, end = hours
    night = night_of(now, hours)
    inside = begin % 24 == end % 24 or (now.hour - begin) % 24 < (end - begin) % 24
    assert bool(night) == inside
    if night:
        first = now - timedelta(hours=(now.hour - begin) % 24)
        assert night_of(first, hours) == night
        assert night_of(now + timedelta(days=1), hours) != night


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """The queue of a station that wants to learn, and has logged nothing."""
    path = build_tiny_station(tmp_path, simulated=True)
    content = yaml.safe_load(path.read_text())
    (tmp_path / "logs").mkdir()
    content["recorder"] = {"folder": str(tmp_path / "logs"), "min_free_mb": 0}
    content["dyna"] = {"schedule": "nightly", "night": [0, 24]}
    path.write_text(yaml.safe_dump(content))
    made = JobStore(tmp_path / "queue")
    station_of(made, str(path))
    return made


def test_rounds_begin_once_a_night_while_no_job_waits(store: JobStore, tmp_path: Path) -> None:
    def due(now: datetime = MIDNIGHT) -> str:
        return NightlyDyna(store, lambda: now).due()

    assert due() == "2026-05-04"
    store.pause("maintenance")
    assert due() == ""
    store.resume()
    job = store.submit(JobRequest("close_drawer", "base"), "anna", 3)
    assert due() == ""
    nightly = NightlyDyna(store, lambda: MIDNIGHT)
    nightly.run("2026-05-04", lambda: False)  # a job came: the rounds make way, and are due again
    assert store.fact(NIGHT) == ""
    store.cancel(job.number, "anna")
    assert nightly.due() == "2026-05-04"
    store.set_fact(NIGHT, "2026-05-04")
    assert due() == "" and due(MIDNIGHT + timedelta(days=1)) == "2026-05-05"
    path = Path(store.fact("station"))
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "dyna": "off"}))
    assert due(MIDNIGHT + timedelta(days=1)) == ""


def test_the_runner_starts_them_and_goes_on_when_they_fail(store: JobStore, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gymnast_core.cli", "queue", "run", "--queue", str(store.folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--over", "simulation"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    )
    wait_for(lambda: bool(store.fact(NIGHT)), HANG_S / 4, process)
    assert process.poll() is None, "the runner goes on"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=HANG_S)[1]
    assert process.returncode == 0 and "next night again" in said and "no whole episode with a known outcome" in said
    assert "no whole episode" in (store.folder / LOG).read_text()

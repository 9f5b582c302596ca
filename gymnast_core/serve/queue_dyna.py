"""What a queue's runner does at night, while no job waits: rounds of `gymnast dyna`, where the station file wants them.

The rounds are a process of low priority. A job that comes meanwhile goes first: the process is asked to end, and goes
on where it stood once the queue is empty again.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from gymnast_core.config import DynaConfig
from gymnast_core.errors import ConfigError
from gymnast_core.files import write_json
from gymnast_core.progress import say
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.queue_station import station_of
from gymnast_core.verb_process import how_it_ended, last_words, start_verb

NIGHT = "dyna_night"
"""Fact of a queue: the last night whose rounds have ended, by the day on which it began."""
LOG, OPTIONS = "dyna.txt", "dyna.json"
LOOK_S = 60.0
"""How often the station file is looked at."""
POLL_S = 0.2
GRACE_S = 90.0
"""Between the request that the rounds end and their kill; what they do is kept at any moment."""
NICENESS = 10


def night_of(now: datetime, hours: tuple[int, int]) -> str:
    """The night that is now, by the day on which it began (YYYY-MM-DD); "" by day. hours: from and until which."""
    begin, end = hours
    length = (end - begin) % 24 or 24
    began = now - timedelta(hours=begin)
    return f"{began:%Y-%m-%d}" if began.hour < length else ""


class NightlyDyna:
    """The rounds of one queue's station. now: the local time."""

    def __init__(self, store: JobStore, now: Callable[[], datetime] = datetime.now) -> None:
        self._store, self._now = store, now
        self._look_at = 0.0

    def due(self) -> str:
        """The night whose rounds are to be done; "" where there is none, the queue is paused, or a job is open."""
        if time.monotonic() < self._look_at:
            return ""
        self._look_at = time.monotonic() + LOOK_S
        try:
            wanted: DynaConfig = station_of(self._store, "").config.dyna
        except ConfigError:  # the next job says so
            return ""
        night = night_of(self._now(), wanted.night) if wanted.schedule == "nightly" else ""
        return "" if not night or self._store.fact(NIGHT) == night or self._busy() else night

    def run(self, night: str, stop: Callable[[], bool]) -> None:
        """The rounds of a night, to their end or until a job comes. stop: whether the runner is to end."""
        station = station_of(self._store, "")
        say(f"no job waits: `gymnast dyna` for station '{station.config.name}'; log: {self._store.folder / LOG}")
        options = self._store.folder / OPTIONS
        write_json(options, {"config": str(station.path), "more": True})
        with open(self._store.folder / LOG, "ab") as log:
            process = start_verb("dyna", options, log, NICENESS)
        asked = self._watch(process, stop)
        words = last_words(self._store.folder / LOG)
        if asked:
            self._look_at = 0.0
            say("`gymnast dyna` makes way, and goes on when no job waits")
        elif process.returncode in (0, 1):
            self._store.set_fact(NIGHT, night)
            say(f"`gymnast dyna` is done for this night: {words}")
        else:
            self._store.set_fact(NIGHT, night)  # trying again at once would end in the same way
            say(f"`gymnast dyna` ended {how_it_ended(process.returncode)}, next night again: {words}", "yellow")

    def _watch(self, process: subprocess.Popen[bytes], stop: Callable[[], bool]) -> bool:
        """Wait for its end; whether it was asked to end before."""
        asked_at = 0.0
        while process.poll() is None:
            time.sleep(POLL_S)
            now = time.monotonic()
            if not asked_at and (stop() or self._busy()):
                asked_at = now
                process.send_signal(signal.SIGINT)
            elif asked_at and now - asked_at > GRACE_S:
                process.kill()
                process.wait()
        return bool(asked_at)

    def _busy(self) -> bool:
        return bool(self._store.paused or self._store.jobs(0))

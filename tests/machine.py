"""How late this machine is, for tests in which real time decides.

A limit holds on an idle machine as fast as the one it was set on. Elsewhere it grows by the time in which something
waited for a core, the disk or memory, as the kernel measured it, by what the host took from the cores, and by what a
slower core loses, to at most `MOST` times itself.
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from pathlib import Path

PRESSURES = tuple(Path(f"/proc/pressure/{what}") for what in ("cpu", "io", "memory"))
CORES = Path("/proc/stat")
STOLEN = 8
"""Place in the first line of CORES of the ticks in which the host ran something else."""
MOST = 5.0
HANG_S = 600.0
"""What takes longer has hung."""
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.02
KEPT = 60_000
"""Samples: twenty minutes of them."""
PROBE_S = 2.0
"""How often the speed of a core is measured."""
REFERENCE_S = 0.006
"""Processor time of `_work` on the machine on which the limits were set, with a margin."""


def _work() -> float:
    """Processor time that a fixed piece of work takes now, in seconds; waiting for a core does not count."""
    began, total = time.thread_time(), 0
    for number in range(100_000):
        total += number * number % 7
    return time.thread_time() - began


class Lateness:
    """Samples, in a thread of its own, how long processes have waited for a core and what a slow core has lost."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._stalled: list[float] = []
        self._waited = 0.0
        self._lost = 0.0
        self._lock = threading.Lock()
        self._probe()
        self._sample()
        threading.Thread(target=self._run, daemon=True).start()

    def stalled(self, since: float, until: float | None = None) -> float:
        """Seconds of [since, until] (monotonic) lost to waiting for a core, or to a slow one."""
        self._sample()
        until = time.monotonic() if until is None else until
        return min(max(0.0, self._at(until) - self._at(since)), max(0.0, until - since))

    def _at(self, when: float) -> float:
        with self._lock:
            index = bisect.bisect_left(self._times, when)
            return self._stalled[min(index, len(self._stalled) - 1)]

    def _run(self) -> None:
        while True:
            time.sleep(SAMPLE_S)
            if time.monotonic() - self._probed > PROBE_S:
                self._probe()
            self._sample()

    def _probe(self) -> None:
        """Measure the share of each second that a core slower than the reference loses."""
        self._slow = 1.0 - min(1.0, REFERENCE_S / min(_work() for _ in range(2)))
        self._probed = time.monotonic()

    def _sample(self) -> None:
        now = time.monotonic()
        with self._lock:
            passed = now - self._times[-1] if self._times else 0.0
            waited = self._total(now)
            self._lost += min(passed, max(0.0, waited - self._waited) + self._slow * passed)
            self._waited = waited
            self._stalled.append(self._lost)
            self._times.append(now)
            if len(self._times) > KEPT:
                del self._times[: KEPT // 2], self._stalled[: KEPT // 2]

    def _total(self, now: float) -> float:
        """Seconds waited so far, since any moment. Where the kernel does not say, the load does."""
        try:
            waited = sum(int(path.read_text().partition("total=")[2].split()[0]) for path in PRESSURES) / 1e6
            return waited + int(CORES.read_text().split()[STOLEN]) / TICKS / (os.cpu_count() or 1)
        except (OSError, ValueError, IndexError):
            if not self._times:
                return 0.0
            load = min(1.0, max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1.0))
            return self._waited + load * (now - self._times[-1])


LATENESS = Lateness()


def slower() -> float:
    """How many times longer a core takes now than the one on which the limits were set, at least 1."""
    return max(1.0, min(_work() for _ in range(5)) / REFERENCE_S)


def allowed(limit: float, since: float, until: float | None = None) -> float:
    """Seconds that what takes `limit` on an idle machine may have taken on this one from `since` (monotonic) on."""
    return limit + min(LATENESS.stalled(since, until), (MOST - 1.0) * limit)


def in_time(limit: float, since: float, until: float | None = None) -> bool:
    """Whether [since, until], until now where not given, was no longer than `limit` seconds allow on this machine."""
    return (time.monotonic() if until is None else until) - since <= allowed(limit, since, until)


def overdue(limit: float, since: float) -> bool:
    """Whether waiting since `since` has been in vain: for the end of loops that wait."""
    return not in_time(limit, since)

"""What a running console costs: processor time with and without a page open, and how soon it loads and stops.

    gymnast up simulated_drawer                       # in one terminal
    python -m benchmarks.console --pid PID --seconds 60 --stop

PID is the console's process (`pgrep -f __node:=console`); its port is the one that this process listens on. An open
page is played by the requests that it makes while nothing is under way. With --stop the emergency stop of that station
is pressed once, at the end; `gymnast rearm` releases it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import threading
import time
from pathlib import Path

IDLE_REQUESTS = (("/api/state", 1.0), ("/api/picture/camera", 1.0), ("/api/records", 3.0), ("/api/station", 30.0))
"""Path and period of what `console.js` asks for while nothing is under way."""
SETTLE_S = 8.0
"""After this time without a request nobody counts as looking."""
LISTENS = "0A"
"""State of a socket in /proc/net/tcp."""
PAGE = ("/", "/console.css", "/charts.js", "/console.js", "/api/station", "/api/state", "/api/records")


def port_of(pid: int) -> int:
    """The port that a process listens on: another console may have the usual one."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTENS and fields[9] in inodes:
            return int(fields[1].partition(":")[2], 16)
    raise SystemExit(f"process {pid} listens on no port; is it the console?")


def processor_seconds(pid: int) -> float:
    """Used by a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(port: int, path: str, method: str = "GET") -> float:
    """Seconds until the whole answer is there."""
    began = time.perf_counter()
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body, headers = ("{}", {"Content-Type": "application/json"}) if method == "POST" else (None, {})
    link.request(method, path, body, headers)
    answer = link.getresponse()
    answer.read()
    link.close()
    if answer.status >= 400:
        raise SystemExit(f"{path}: status {answer.status}")
    return time.perf_counter() - began


def share_of_a_core(pid: int, port: int, seconds: float, watched: bool) -> float:
    """Of a console's process, over `seconds`."""

    def repeat(path: str, period: float) -> None:
        while time.monotonic() < end:
            ask(port, path)
            time.sleep(period)

    time.sleep(SETTLE_S)
    began, used = time.monotonic(), processor_seconds(pid)
    end = began + seconds
    threads = [threading.Thread(target=repeat, args=one) for one in (IDLE_REQUESTS if watched else ())]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, end - time.monotonic()))
    share = (processor_seconds(pid) - used) / (time.monotonic() - began)
    for thread in threads:
        thread.join()
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--stop", action="store_true", help="press the emergency stop, once, at the end")
    options = parser.parse_args()
    port = port_of(options.pid)
    print(f"load average {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores")
    for watched, words in ((False, "nobody looks"), (True, "a page is open")):
        share = share_of_a_core(options.pid, port, options.seconds, watched)
        print(f"{words}: {share:.1%} of a core over {options.seconds:g} s")
    print(f"everything that the page loads: {1000 * sum(ask(port, path) for path in PAGE):.0f} ms")
    if options.stop:
        print(f"stop, from the press to the answer: {1000 * ask(port, '/api/stop', 'POST'):.0f} ms")


if __name__ == "__main__":
    main()

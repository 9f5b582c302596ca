"""Processes of one training run, each of which outlives the other."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.machine import overdue

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def two_processes(*command: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of one run, with no torchrun that would end the one when the other does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def wait_for(condition: Callable[[], object], seconds: float, *processes: subprocess.Popen[str]) -> None:
    """Wait until `condition` is true; fails after `seconds` (tests.machine) or when a process has ended."""
    began = time.monotonic()
    while not condition():
        for process in processes:
            assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[1]}"
        assert not overdue(seconds, began), f"not within {seconds:g} s"
        time.sleep(0.02)

"""What the station does while faults are injected: episodes of its executor, or actions of this process."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Protocol

from gymnast_core.config import StationConfig
from gymnast_core.errors import StationError
from gymnast_nodes.arm_check_bench import ArmBench, Broken
from gymnast_nodes.client import Station, Task

STEP_M = 0.025
WAY = ((0, 1), (0, 1), (1, 1), (1, 1), (0, -1), (0, -1), (1, -1), (1, -1))
"""To and fro along y and z: waist, shoulder, elbow and wrist move."""
MAX_STEPS = 600
CANCEL_S = 5.0


class Work(Protocol):
    """Work at the arm; `begin` after a reset, `end` before the next."""

    done: int
    """Pieces of work that were begun."""

    def begin(self) -> None:
        """Raises: StationError where it cannot."""
        ...

    @property
    def over(self) -> bool:
        """Whether it ended by itself."""
        ...

    def end(self) -> None: ...


class Episodes:
    """Episodes of the base policy, recorded as any."""

    def __init__(self, client: Station, station: StationConfig) -> None:
        self._client = client
        self._name, self._task_config = next(iter(station.tasks.items()))
        self._task: Task | None = None
        self.done = 0

    def begin(self) -> None:
        self._client.reset_scene(self._name, self.done)
        instruction = self._task_config.instruction
        self._task = self._client.run_episode(instruction, "base", self._name, MAX_STEPS, judge=False)
        self.done += 1

    @property
    def over(self) -> bool:
        try:
            return self._task is None or self._task.is_complete()
        except StationError:
            return True

    def end(self) -> None:
        if self._task is not None and not self.over:
            with contextlib.suppress(StationError):
                self._task.cancel(CANCEL_S)
        self._task = None


class Actions:
    """Actions at the station's rate, to and fro, whatever becomes of them."""

    def __init__(self, bench: ArmBench) -> None:
        self._bench = bench
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self.done = 0

    def begin(self) -> None:
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="actions", daemon=True)
        self._thread.start()
        self.done += 1

    @property
    def over(self) -> bool:
        return False

    def end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(CANCEL_S)

    def _run(self) -> None:
        step = 0
        while not self._ending.is_set():
            due = time.monotonic() + self._bench.period
            axis, sign = WAY[step % len(WAY)]
            values = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
            values[1 + axis] = sign * STEP_M
            with contextlib.suppress(Broken):
                self._bench.send(values)
            step += 1
            self._ending.wait(max(0.0, due - time.monotonic()))

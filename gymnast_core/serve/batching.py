"""One thread that runs the policy: requests that wait together are answered by one forward pass.

While a forward runs, requests gather for the next one. Before it starts, it waits a few milliseconds for as many rows
as the last forwards had, so that clients in lockstep stay together. A single client never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.data.episode import ACTION_DIM
from gymnast_core.errors import CheckpointError, DataError
from gymnast_core.progress import say
from gymnast_core.protocols import Policy


@dataclass(frozen=True)
class Inferred:
    """A chunk (K, 7) float32, finite. seconds: of the forward pass. rows: requests that it answered."""

    actions: np.ndarray
    seconds: float
    rows: int


@dataclass
class _Row:
    policy: Policy
    frame: np.ndarray
    instruction: str
    future: asyncio.Future[Any]


@dataclass
class _Call:
    work: Callable[[], Any]
    future: asyncio.Future[Any]


_Outcome = tuple["asyncio.Future[Any]", Any, "Exception | None"]


class PolicyThread:
    """Runs all that touches the policy, in the order in which it was asked, off the event loop.

    max_batch: rows of one forward. gather_s: longest wait for more rows.
    """

    def __init__(self, max_batch: int, gather_s: float) -> None:
        self._max_batch, self._gather_s = max_batch, gather_s
        self._waiting: deque[_Row | _Call] = deque()
        self._arrived = threading.Condition()
        self._recent = (1, 1)
        """Rows of the last two forwards."""
        threading.Thread(target=self._run, name="policy", daemon=True).start()

    async def act(self, policy: Policy, frame: np.ndarray, instruction: str) -> Inferred:
        """The policy's chunk. Raises: what the policy raises; CheckpointError where its answer is no chunk."""
        future = asyncio.get_running_loop().create_future()
        self._add(_Row(policy, frame, instruction, future))
        inferred: Inferred = await future
        return inferred

    async def call(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, in the policy's thread. Raises: what it raises."""
        future = asyncio.get_running_loop().create_future()
        self._add(_Call(work, future))
        return await future

    def _add(self, item: _Row | _Call) -> None:
        with self._arrived:
            self._waiting.append(item)
            self._arrived.notify()

    def _run(self) -> None:
        while True:
            taken = self._take()
            if isinstance(taken, _Call):
                outcomes = [_try(taken)]
            else:
                outcomes = [outcome for group in _alike(taken) for outcome in _forward(group)]
            with contextlib.suppress(RuntimeError):  # the loop has ended
                outcomes[0][0].get_loop().call_soon_threadsafe(_settle, outcomes)

    def _take(self) -> _Call | list[_Row]:
        """The next call, or the rows of the next forward."""
        with self._arrived:
            while not self._waiting:
                self._arrived.wait()
            if isinstance(first := self._waiting[0], _Call):
                self._waiting.popleft()
                return first
            wanted, end = min(self._max_batch, max(self._recent)), time.monotonic() + self._gather_s
            while len(self._waiting) < wanted and (left := end - time.monotonic()) > 0:
                self._arrived.wait(left)
            rows: list[_Row] = []
            while self._waiting and len(rows) < self._max_batch and isinstance(row := self._waiting[0], _Row):
                self._waiting.popleft()
                rows.append(row)
            self._recent = (self._recent[1], len(rows))
            return rows


def _try(call: _Call) -> _Outcome:
    try:
        return call.future, call.work(), None
    except Exception as error:
        return call.future, None, error


def _alike(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Rows that one call can answer: of one policy, with frames of one size."""
    groups: dict[tuple[int, tuple[int, ...]], list[_Row]] = {}
    for row in rows:
        groups.setdefault((id(row.policy), row.frame.shape), []).append(row)
    return list(groups.values())


def _forward(rows: Sequence[_Row]) -> list[_Outcome]:
    """The rows' chunks. Where the policy refuses the batch, each row is asked about alone: one client's input costs no
    other client its answer."""
    began = time.perf_counter()
    try:
        frames = np.stack([row.frame for row in rows])
        chunks = np.asarray(rows[0].policy.act(frames, [row.instruction for row in rows]), dtype=np.float32)
        _check_answer(chunks, len(rows))
    except Exception as error:
        if len(rows) > 1:
            return [outcome for row in rows for outcome in _forward([row])]
        if not isinstance(error, (DataError, CheckpointError)):
            say(traceback.format_exc(), "red")
        return [(rows[0].future, None, error)]
    spent = time.perf_counter() - began
    return [(row.future, Inferred(chunk, spent, len(rows)), None) for row, chunk in zip(rows, chunks)]


def _check_answer(chunks: np.ndarray, rows: int) -> None:
    """Raises: CheckpointError when the policy's answer is no finite chunk for each row."""
    if chunks.ndim != 3 or len(chunks) != rows or not chunks.shape[1] or chunks.shape[2] != ACTION_DIM:
        raise CheckpointError(f"the policy answered shape {chunks.shape}, needed ({rows}, K, {ACTION_DIM})")
    if not np.isfinite(chunks).all():
        raise CheckpointError("the policy answered a number that is not finite")


def _settle(outcomes: Sequence[_Outcome]) -> None:
    """In the event loop: hand the outcomes to those who wait."""
    for future, result, error in outcomes:
        if future.done():  # whoever asked has left
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

"""The policy as clients meet it, whatever wire they speak: chunks, their single actions, and new episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gymnast_core.errors import DataError, GymnastError
from gymnast_core.protocols import EpisodicPolicy, Policy
from gymnast_core.serve.batching import Inferred, PolicyThread
from gymnast_core.serve.observation import Observation
from gymnast_core.serve.practice import Practices
from gymnast_core.serve.practising import Practising
from gymnast_core.serve.refusal import Refusal
from gymnast_core.serve.sessions import Session


@dataclass(frozen=True)
class Acted:
    """An answer. actions: (K, 7) float32, or (1, 7) where the next action was asked for. infer_ms: of the forward pass;
    0 where the action was left from the last chunk. total_ms: with waiting. rows: requests in that forward."""

    actions: np.ndarray
    infer_ms: float
    total_ms: float
    rows: int


class Actor:
    """Answers observations by one policy in one thread.

    A policy that remembers (a script, another server) is opened once for each client, so that clients do not mix.

    open_policy: opens it. steps_of_chunk: actions of a chunk that are given out one by one; 0: all. practices: where
    clients may practise. Raises: what `open_policy` raises; ConfigError where the policy cannot practise.
    """

    def __init__(
        self,
        open_policy: Callable[[], Policy],
        thread: PolicyThread,
        steps_of_chunk: int,
        practices: Practices | None = None,
    ) -> None:
        self._open, self._thread, self._steps = open_policy, thread, steps_of_chunk
        self._policy = open_policy()
        self.practising = Practising(practices, self._policy, thread) if practices is not None else None
        self._remembers = isinstance(self._policy, EpisodicPolicy)

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk."""
        return self._policy.chunk_length

    async def act(self, session: Session, asked: Observation) -> Acted:
        """Raises: Refusal 400 (the policy refuses the input), 500 or 502 (it failed)."""
        began = time.perf_counter()
        with _due(session):
            async with session.lock:
                if asked.capture or asked.adapter:
                    self.need_practising().capture(session, asked)
                what = f"{asked.adapter}\n{asked.instruction}"
                if not asked.whole and (action := session.next_action(what)) is not None:
                    return Acted(action[None], 0.0, (time.perf_counter() - began) * 1e3, 0)
                found = await self._infer(session, asked)
                rest = found.actions[: self._steps] if self._steps else found.actions
                session.keep(rest[1:] if not asked.whole else rest[:0], what)
        answer = found.actions if asked.whole else found.actions[:1]
        return Acted(answer, found.seconds * 1e3, (time.perf_counter() - began) * 1e3, found.rows)

    async def reset(self, session: Session) -> None:
        """A new episode of this client begins. Raises: Refusal 502 where a policy server behind this one refuses."""
        with _due(session):
            async with session.lock:
                session.keep(session.pending[:0], "")
                session.shared = False
                if isinstance(session.policy, EpisodicPolicy):
                    try:
                        await self._thread.call(session.policy.restart)
                    except Exception as error:
                        raise self._refusal(error) from error

    async def _infer(self, session: Session, asked: Observation) -> Inferred:
        try:
            if self._remembers and session.policy is None:
                session.policy = await self._thread.call(self._open)
            policy = session.policy or self._policy
            if self.practising is not None:
                policy = await self.practising.policy_of(asked.adapter)
            return await self._thread.act(policy, asked.frame, asked.instruction)
        except Exception as error:
            raise self._refusal(error) from error

    def need_practising(self) -> Practising:
        """Raises: Refusal 400 where clients may not practise."""
        if self.practising is None:
            raise Refusal(400, "capture, adapter, practise: this server does not practise; it runs without --practise")
        return self.practising

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, DataError):
            return Refusal(502 if self._remembers else 400, str(error))
        words = str(error) if isinstance(error, GymnastError) else type(error).__name__
        return Refusal(500, f"the policy failed: {words}")


@contextmanager
def _due(session: Session) -> Iterator[None]:
    session.due += 1
    try:
        yield
    finally:
        session.due -= 1

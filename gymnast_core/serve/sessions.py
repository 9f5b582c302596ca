"""Who is asking: what the server remembers of each client, and how many of them it takes.

A client is told apart by the name it gives (`session`), else by its connection. A client that opens a new connection
for each request, as AutoEval's does, is known by its host. Where two such clients ask from one host at the same time,
they cannot be told apart: each request is then answered from its own picture, and no chunk is stepped through.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gymnast_core.data.episode import ACTION_DIM
from gymnast_core.policy.practice_wire import MOST_PICTURES
from gymnast_core.protocols import Policy
from gymnast_core.serve.refusal import Refusal

if TYPE_CHECKING:
    from gymnast_core.serve.practice import Practice

Peer = tuple[str, int]
"""Host and port that a connection comes from."""
MAX_DUE = 8
"""Answers that one client may wait for at once."""


@dataclass
class Session:
    """One client. pending: actions (n, 7) of its chunk that it has not got yet, for `instruction`."""

    key: tuple[str, ...]
    peer: Peer
    last_used: float
    allowance: float
    policy: Policy | None = None
    """A policy of its own, where the policy remembers what it saw."""
    pending: np.ndarray = field(default_factory=lambda: np.empty((0, ACTION_DIM), np.float32))
    instruction: str = ""
    shared: bool = False
    """Several clients that cannot be told apart."""
    due: int = 0
    """Answers under way."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    captured: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_PICTURES))
    """Pictures to practise from, the latest last."""
    practice: Practice | None = None
    """The one that this client asked for last."""

    def next_action(self, instruction: str) -> np.ndarray | None:
        """The next action (7,) of the chunk; None where the policy must look again."""
        if not len(self.pending) or instruction != self.instruction or self.shared:
            return None
        action, self.pending = self.pending[0], self.pending[1:]
        return action

    def keep(self, rest: np.ndarray, instruction: str) -> None:
        """Remember the rest (n, 7) of a chunk, in place of any other."""
        self.pending, self.instruction = rest, instruction


class Sessions:
    """All clients of the server.

    rate: requests a second of each; 0: no limit. is_open: whether a connection is still there.
    """

    def __init__(self, max_clients: int, idle_s: float, rate: float, is_open: Callable[[Peer], bool]) -> None:
        self._max_clients, self._idle_s, self._rate, self._is_open = max_clients, idle_s, rate, is_open
        self._kept: dict[tuple[str, ...], Session] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, name: str, peer: Peer, by_host: bool = False) -> Session:
        """The client that asks. by_host: one without a name may come over a new connection each time.

        Raises: Refusal 503 for a client too many, 429 for one that asks too often.
        """
        now = time.monotonic()
        key = ("name", name) if name else self._unnamed(peer) if by_host else _connection(peer)
        session = self._kept.get(key)
        if session is None:
            if len(self._kept) >= self._max_clients:
                self.forget_idle()
            if len(self._kept) >= self._max_clients:
                raise Refusal(503, f"{self._max_clients} clients are served already; try later", {"Retry-After": "10"})
            session = self._kept[key] = Session(key, peer, now, max(1.0, self._rate))
        self._limit(session, now)
        session.peer = peer
        return session

    def forget(self, peer: Peer) -> None:
        """The connection has ended, and with it the client that is known by nothing else."""
        self._kept.pop(_connection(peer), None)

    def forget_idle(self) -> None:
        """Drop clients that asked nothing for long, and those whose connection has gone."""
        now = time.monotonic()
        for key, session in list(self._kept.items()):
            gone = key[0] == "connection" and not self._is_open(session.peer)
            if not session.due and (gone or now - session.last_used > self._idle_s):
                del self._kept[key]

    def _unnamed(self, peer: Peer) -> tuple[str, ...]:
        own, host = _connection(peer), ("host", peer[0])
        known = self._kept.get(host)
        if own in self._kept:
            return own
        if known is None or known.peer == peer:
            return host
        if known.due:
            known.shared = True
        return own if known.due or self._is_open(known.peer) else host

    def _limit(self, session: Session, now: float) -> None:
        """Raises: Refusal 429."""
        if session.due >= MAX_DUE:
            raise Refusal(429, f"{MAX_DUE} answers are still due to this client; wait for them", {"Retry-After": "1"})
        if self._rate:
            most = max(1.0, self._rate)
            session.allowance = min(most, session.allowance + (now - session.last_used) * self._rate)
            session.last_used = now
            if session.allowance < 1.0:
                wait = f"{max(1.0, (1.0 - session.allowance) / self._rate):.0f}"
                raise Refusal(429, f"more than {self._rate:g} requests a second", {"Retry-After": wait})
            session.allowance -= 1.0
        session.last_used = now


def _connection(peer: Peer) -> tuple[str, ...]:
    return ("connection", peer[0], str(peer[1]))

"""One commander at a time: whose actions move the arm now."""

from __future__ import annotations

import math

LEASE_S = 2.0
"""The lease ends this long after its holder's last action or claim: longer than a claim or two may get lost, short
enough that a commander that died does not keep the arm."""
UNNAMED = "unnamed"
"""Whoever sends actions without a name; all of these count as one commander."""


class Lease:
    """Given to the first that asks, kept by every sign of its holder, ended by silence or release.

    Times are one steady clock's seconds. Keeps no clock of its own.
    """

    def __init__(self, silence_s: float = LEASE_S) -> None:
        self._silence_s = silence_s
        self._holder = ""
        self._seen_at = -math.inf

    def holder(self, now: float) -> str:
        """Who commands the arm now; empty: nobody."""
        return self._holder if now - self._seen_at <= self._silence_s else ""

    def other(self, commander: str, now: float) -> str:
        """Who commands the arm now, where that is somebody else than `commander`; empty: it may."""
        holder = self.holder(now)
        return "" if holder == (commander or UNNAMED) else holder

    def take(self, commander: str, now: float) -> bool:
        """`commander` takes or keeps the lease; False while somebody else has it."""
        if self.other(commander, now):
            return False
        self._holder, self._seen_at = commander or UNNAMED, now
        return True

    def release(self, commander: str) -> None:
        """`commander` is done; of anybody else this changes nothing."""
        if self._holder == (commander or UNNAMED):
            self._seen_at = -math.inf

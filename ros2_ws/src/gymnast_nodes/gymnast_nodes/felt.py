"""What arm/state says of load and holds while an episode is recorded, handed out step by step."""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass

import numpy as np
from gymnast_msgs.msg import ArmState


@dataclass(frozen=True)
class _Moment:
    taken: float
    load: float
    holds: tuple[str, ...]


class Felt:
    """Takes arm states in the order in which they come; times are of the steady clock, seconds."""

    def __init__(self) -> None:
        self._moments: collections.deque[_Moment] = collections.deque()
        self._counted: int | None = None
        """Holds that the arm node had counted when it spoke last; None before it spoke."""

    def take(self, state: ArmState, taken: float) -> None:
        """One arm state. The first says only what was before the episode."""
        before, self._counted = self._counted, int(state.holds)
        new = 0 if before is None else self._counted - before
        if new < 0:  # an arm node that came back counts anew
            new = self._counted
        loads = [float(share) for share in state.load if math.isfinite(share)]
        self._moments.append(_Moment(taken, max(loads, default=math.nan), (str(state.hold),) * new))

    def until(self, moment: float) -> tuple[list[str], float | None]:
        """Kinds of the holds, and the largest load (None: not measured), of all taken up to `moment` and not handed out
        yet."""
        holds: list[str] = []
        loads: list[float] = []
        while self._moments and self._moments[0].taken <= moment:
            one = self._moments.popleft()
            holds += one.holds
            loads.append(one.load)
        known = [load for load in loads if np.isfinite(load)]
        return holds, max(known, default=None)

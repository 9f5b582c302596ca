"""Confirmed success: what ends in success only with lucky noise, or in one world model only, counts as nothing.

A success in imagination is an event of the world model as much as of the policy. So the same actions are imagined
again: with other noise (RAW-Dream, arXiv 2605.12334), and in a world model that was trained apart, whose mistakes are
others. Where a replay does not end in success, the verdict is an abstention: the rollout is neither a success nor a
failure.

Each replay may end with a retreat of the arm, after which the judge looks at the scene: an arm that hides the object
is the mistake that noise and a second model share.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gymnast_core.protocols import Environment, Judge, Start, Verdict
from gymnast_core.rollout.replay import replay_actions
from gymnast_core.seeds import derive_seed

OTHER_NOISE = "not confirmed: ends otherwise with other noise"
SECOND_MODEL = "not confirmed: ends otherwise in the second world model"


class Confirms(Protocol):
    """Says which successes are to be believed."""

    def __call__(
        self, starts: Sequence[Start], actions: Sequence[np.ndarray], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        """The verdicts, with an abstention in place of each success that is not confirmed.

        actions: (T, 7) of each rollout, as its environment took them.
        """
        ...


class Confirmation:
    """Confirms successes by replays.

    environment: the one that the rollouts were imagined in; it is reset. noises: replays in it, each with noise of its
    own. second: another world model, in which each success is replayed once. retreat: (R, 7) actions after each replay.
    """

    def __init__(
        self,
        environment: Environment,
        judge: Judge,
        *,
        noises: int = 1,
        second: Environment | None = None,
        retreat: np.ndarray | None = None,
    ) -> None:
        self._judge, self._retreat = judge, retreat
        self._replays = [(environment, f"noise {number}", OTHER_NOISE) for number in range(noises)]
        if second is not None:
            self._replays.append((second, "second", SECOND_MODEL))
        self.successes = 0
        """Successes looked at so far."""
        self.refused: Counter[str] = Counter()
        """How many of them were not confirmed, by the reason."""

    def by(self, judge: Judge) -> Confirmation:
        """The same replays, judged by another judge and counted anew."""
        other = copy.copy(self)
        other._judge, other.successes, other.refused = judge, 0, Counter()
        return other

    def __call__(
        self, starts: Sequence[Start], actions: Sequence[np.ndarray], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        """See `Confirms`. A success that one replay refuses is not replayed further."""
        confirmed = list(verdicts)
        self.successes += sum(bool(verdict.completed) for verdict in verdicts)
        for environment, salt, reason in self._replays:
            rows = [row for row, verdict in enumerate(confirmed) if verdict.completed]
            if not rows:
                break
            again = [
                dataclasses.replace(starts[row], seed=derive_seed(starts[row].seed, "confirm", salt)) for row in rows
            ]
            replayed = replay_actions(environment, self._judge, again, [actions[row] for row in rows], self._retreat)
            for row, one in zip(rows, replayed):
                if not one.verdict.completed:
                    self.refused[reason] += 1
                    confirmed[row] = Verdict(None, 0.0, reason)
        return confirmed

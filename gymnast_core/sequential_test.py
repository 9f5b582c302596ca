"""An anytime-valid test of paired trials: look after every pair, stop when it is clear, and be wrong at most alpha.

Of two policies on the same reset only pairs with different outcomes say which is better. Under the hypothesis "the
second is no better" each such pair favours it with probability at most 1/2. A bettor who stakes on more than 1/2, at a
chance drawn evenly from 1/2 to 1, gains nothing in the mean while that holds; his wealth is an e-process. By Ville's
inequality it ever reaches 1 / alpha with probability at most alpha, however often and whenever one looks.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (arXiv 2010.09686); Ramdas,
Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference" (arXiv 2210.01948), section 3;
the mixture over chances is Robbins' (1970).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betainc, betaln

Verdict = Literal["better", "worse", "undecided"]


def log_wealth(favourable: int | np.ndarray, discordant: int | np.ndarray) -> np.ndarray:
    """Logarithm of the bettor's wealth after `discordant` pairs, `favourable` of which were for him; arrays broadcast.

    That of the likelihood of chances drawn evenly from [1/2, 1] over that of 1/2: a Beta integral.
    """
    k, m = np.asarray(favourable, dtype=np.float64), np.asarray(discordant, dtype=np.float64)
    upper = betainc(m - k + 1.0, k + 1.0, 0.5)  # the Beta(k + 1, m - k + 1) probability of more than 1/2
    with np.errstate(divide="ignore"):
        return (m + 1.0) * math.log(2.0) + betaln(k + 1.0, m - k + 1.0) + np.log(upper)


@dataclass(frozen=True)
class PairedTest:
    """What pairs have shown so far. wins: pairs that only the second policy succeeded in; losses: only the first;
    ties: both or neither; void: pairs with a trial that was aborted or not judged, which count for nothing.

    alpha: the largest probability of a wrong "better", and of a wrong "worse".
    """

    alpha: float
    wins: int = 0
    losses: int = 0
    ties: int = 0
    void: int = 0

    @classmethod
    def of(cls, alpha: float, pairs: Iterable[tuple[float, float]]) -> PairedTest:
        """From outcomes (first, second), 0 or 1, NaN for a trial that does not count."""
        counts = {"wins": 0, "losses": 0, "ties": 0, "void": 0}
        for first, second in pairs:
            if not (math.isfinite(first) and math.isfinite(second)):
                counts["void"] += 1
            else:
                counts["ties" if first == second else "wins" if second > first else "losses"] += 1
        return cls(alpha, **counts)

    @property
    def pairs(self) -> int:
        """Pairs that count."""
        return self.wins + self.losses + self.ties

    @property
    def evidence_better(self) -> float:
        """The e-value against "the second policy is no better"; "better" from 1 / alpha on."""
        return float(np.exp(log_wealth(self.wins, self.wins + self.losses)))

    @property
    def evidence_worse(self) -> float:
        """The e-value against "the second policy is no worse"."""
        return float(np.exp(log_wealth(self.losses, self.wins + self.losses)))

    @property
    def verdict(self) -> Verdict:
        """What the pairs so far say; once "better" or "worse", no further pair is needed."""
        if self.evidence_better >= 1.0 / self.alpha:
            return "better"
        return "worse" if self.evidence_worse >= 1.0 / self.alpha else "undecided"

    def __str__(self) -> str:
        void = f", {self.void} void" if self.void else ""
        return (
            f"{self.verdict} after {self.pairs} pairs{void} ({self.wins} won, {self.losses} lost, {self.ties} alike; "
            f"e {self.evidence_better:.3g} for better, {self.evidence_worse:.3g} for worse, needed {1 / self.alpha:g})"
        )


def simulate(
    first: float, second: float, alpha: float, pairs: int, runs: int, seed: int = 0
) -> dict[str, np.ndarray | float]:
    """Run the test `runs` times on independent trials with success rates `first` and `second`.

    Returns the share of runs that end "better" and "worse" within `pairs`, and for each run after how many pairs it
    ended ("decided", (runs,), `pairs` where it did not).
    """
    generator = np.random.default_rng(seed)
    one, other = generator.random((2, runs, pairs))
    difference = (other < second).astype(int) - (one < first).astype(int)
    wins, losses = np.cumsum(difference > 0, axis=1), np.cumsum(difference < 0, axis=1)
    limit = math.log(1.0 / alpha)
    better = log_wealth(wins, wins + losses) >= limit
    worse = log_wealth(losses, wins + losses) >= limit
    ended = better | worse
    when = np.where(ended.any(axis=1), ended.argmax(axis=1), pairs - 1)
    rows = np.arange(runs)
    return {
        "better": float((better[rows, when]).mean()),
        "worse": float((worse[rows, when] & ~better[rows, when]).mean()),
        "decided": when + 1,
    }

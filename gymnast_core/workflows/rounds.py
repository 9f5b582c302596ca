"""Rounds of practice: practise, let the robot have the last word, learn from what it said, practise again.

A round ends in one of four ways: the canary confirms the adapter, keeps it unconfirmed, rolls it back, or there is no
adapter for it to try. Only a roll-back leaves something to learn from, so only after it comes another round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gymnast_core.config import StationConfig
from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.workflows.learn_result import Learned

MEASURING_TRIALS = 20
"""At each task of a simulated station."""


@dataclass(frozen=True)
class RoundRecord:
    """One round, and what came of its adapter.

    number: 0 is the first practice, before anything was learned. station: the file whose models practised. adapter:
    empty where the gate let none through. message, imagined_before, imagined_after, pairs, updates: of practice, see
    `rl.adapt_result.AdaptResult`. gate: the world model's figures, in words; distrust: which of its conditions failed.
    canary: None where there was nothing to try, or no canary. learned: from this round, None where nothing was.
    seconds: by step.
    """

    number: int
    station: str
    adapter: str
    message: str
    imagined_before: float | None
    imagined_after: float | None
    pairs: int
    updates: int
    gate: str
    distrust: tuple[str, ...] = ()
    canary: CanaryResult | None = None
    learned: Learned | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, number: int, station: str, adapted: AdaptResult, canary: CanaryResult | None, seconds: dict[str, float]
    ) -> RoundRecord:
        """The record of a practice and its canary trials."""
        return cls(
            number=number,
            station=station,
            adapter=adapted.adapter_id,
            message=adapted.message,
            imagined_before=adapted.success_before,
            imagined_after=adapted.success_after,
            pairs=adapted.pairs,
            updates=adapted.iterations,
            gate=adapted.world_model,
            distrust=adapted.distrust,
            canary=canary,
            seconds=seconds,
        )

    @property
    def rolled_back(self) -> bool:
        """Whether the canary took the adapter back."""
        return self.canary is not None and self.canary.state == "rolled back"

    @property
    def state(self) -> str:
        """What became of the adapter: "imagined", "confirmed" or "rolled back"; empty where there is none."""
        if not self.adapter:
            return ""
        return self.canary.state if self.canary is not None else "imagined"

    @property
    def fate(self) -> str:
        """What came of the round, in words."""
        words = {
            "": "no adapter passed the gate",
            "imagined": "the adapter acts, unconfirmed",
            "confirmed": "the robot confirmed the adapter",
            "rolled back": "the robot rolled the adapter back",
        }
        return words[self.state]


def goes_on(done: Sequence[RoundRecord], rounds: int) -> bool:
    """Whether another round follows the ones that are done: the last one left something to learn from, and fewer than
    `rounds` rounds have followed the first practice."""
    return bool(done) and done[-1].rolled_back and len(done) - 1 < rounds


def measuring_trials(station: StationConfig) -> int:
    """How many episodes of the base policy measure, at each task: as the station file says, or as many as are cheap."""
    given = station.practise.measuring_trials
    if given is not None:
        return given
    return MEASURING_TRIALS if station.simulation is not None else 0


@dataclass(frozen=True)
class PractiseResult:
    """What rounds of practice came to, written to result.json.

    rounds_allowed: further rounds after the first practice. adapter: what acts from now on, empty for the base; state:
    of it, "confirmed" or "imagined". station_file: the file whose models practised last.
    """

    station: str
    task: str
    instruction: str
    rounds_allowed: int
    adapter: str
    state: str
    station_file: str
    message: str
    rounds: tuple[RoundRecord, ...]


def result_of(
    station: str, task: str, instruction: str, rounds_allowed: int, done: Sequence[RoundRecord], trouble: str = ""
) -> PractiseResult:
    """What at least one round came to. trouble: why nothing could be learned from the last one, in words.

    Raises: IndexError where none is done.
    """
    last = done[-1]
    acts = last.state in ("imagined", "confirmed")
    count = f"after {len(done)} practices" if len(done) > 1 else "after one practice"
    if acts:
        message = f"adapter {last.adapter} acts, {last.state}, {count}"
    else:
        why = last.canary.reason if last.canary is not None else last.message
        message = f"the base acts, {count}: {why}" + (f"; nothing could be learned: {trouble}" if trouble else "")
    return PractiseResult(
        station=station,
        task=task,
        instruction=instruction,
        rounds_allowed=rounds_allowed,
        adapter=last.adapter if acts else "",
        state=last.state if acts else "",
        station_file=last.station,
        message=message,
        rounds=tuple(done),
    )

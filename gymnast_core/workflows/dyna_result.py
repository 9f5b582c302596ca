"""What rounds of `gymnast dyna` came to: written round by round, and as result.json of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gymnast_core.workflows.dyna_data import Gathered
from gymnast_core.workflows.learn_result import Learned
from gymnast_core.workflows.rounds import RoundRecord


@dataclass(frozen=True)
class DynaRound:
    """One round. began_with: its station file; station: the file of the models that are used after it. practices: by
    task, or "all tasks" of a training. notes: what was not done, and why. seconds: by step."""

    number: int
    began_with: str
    station: str
    data: Gathered
    learned: Learned
    practices: dict[str, RoundRecord] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def better(self) -> bool:
        """Whether a model learned and is used, or an adapter acts."""
        return bool(self.learned.models) or any(
            one.state in ("imagined", "confirmed") for one in self.practices.values()
        )

    def __str__(self) -> str:
        used = ", ".join(self.learned.models) or "no model became better"
        acts = ", ".join(f"{task}: {one.fate}" for task, one in self.practices.items())
        return f"round {self.number}: {self.data.words}; used from now on: {used}" + (f"; {acts}" if acts else "")


@dataclass(frozen=True)
class DynaResult:
    """All rounds of a run. rounds_allowed: in all. station_file: names the models that are used after the last round.
    ended: why no further round follows, in words."""

    station: str
    rounds_allowed: int
    station_file: str
    ended: str
    rounds: tuple[DynaRound, ...]

    @property
    def adapters(self) -> dict[str, str]:
        """The latest adapter that acts, by task."""
        found = {}
        for one in self.rounds:
            acting = {task: p.adapter for task, p in one.practices.items() if p.state in ("imagined", "confirmed")}
            found.update(acting)
        return found

    @property
    def message(self) -> str:
        """For people, in one line."""
        better = sum(one.better for one in self.rounds)
        count = f"{len(self.rounds)} rounds" if len(self.rounds) > 1 else "one round"
        return f"{count}, of which {better} made something better; {self.ended}"


def result_of(station: str, allowed: int, station_file: str, ended: str, done: Sequence[DynaRound]) -> DynaResult:
    """The result of the rounds that are done."""
    return DynaResult(station, allowed, station_file, ended, tuple(done))

"""What it took to bring a station to a trial's start: kept with the trial, and told on its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

SIMULATED, STATION, TASK, PERSON = "simulated", "station", "task", "person"
"""Who brings a scene to its start: the simulator here, the station's reset service, the task that undoes this one."""


@dataclass(frozen=True)
class ResetReport:
    """The resets of one trial. attempts: 0 where nobody told, as in older files. method: who brought the scene to its
    start at last: "simulated", "station", "task" or "person". failures: why the earlier attempts failed. seconds: of
    all attempts, waiting for a person included, rests not. confirmed_by: how a person said that the scene is ready.
    check: what `evaluation.reset_check` found."""

    attempts: int = 0
    method: str = ""
    failures: tuple[str, ...] = ()
    seconds: float = 0.0
    confirmed_by: str = ""
    check: str = ""

    def then(self, later: ResetReport) -> ResetReport:
        """Of both, where a trial was reset again."""
        if not later.attempts or not self.attempts:
            return later if later.attempts else self
        return ResetReport(
            attempts=self.attempts + later.attempts,
            method=later.method,
            failures=(*self.failures, *later.failures),
            seconds=round(self.seconds + later.seconds, 2),
            confirmed_by=later.confirmed_by,
            check=later.check,
        )

    def __str__(self) -> str:
        if not self.attempts:
            return ""
        often = "" if self.attempts == 1 else f", {self.attempts} attempts"
        return f"{self.method}{often}, {self.seconds:.1f} s"


def tell_resets(reports: Sequence[ResetReport]) -> str:
    """What the resets of trials took together, in words; empty where nobody told."""
    known = [report for report in reports if report.attempts]
    if not known:
        return ""
    methods = ", ".join(f"{count} by {name}" for name, count in Counter(one.method for one in known).most_common())
    again = sum(report.attempts > 1 for report in known)
    mean = sum(report.seconds for report in known) / len(known)
    return f"{methods}; {again} of {len(known)} needed more than one attempt; mean {mean:.1f} s"

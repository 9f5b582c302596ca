"""Whether a scene is at a task's start after a reset: by the station's truth, else by the judge on a picture.

At a start the task that undoes this one is done; where the station file names none (`reset_task`), this one is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gymnast_core.contents import one_line
from gymnast_core.errors import GymnastError

if TYPE_CHECKING:
    from gymnast_nodes.ros_bench import RosBench


@dataclass(frozen=True)
class ResetSeen:
    """What was seen of a reset. wrong: the scene is not at its start. words: for people."""

    wrong: bool
    words: str


def check_reset(bench: RosBench, task: str, trusted: bool) -> ResetSeen:
    """Look at the scene. trusted: a person has just brought it to its start, whose word outranks the judge's.

    An abstention and a judge that fails are no reason to reset again. Raises: StationError (no truth, no picture);
    Cancelled.
    """
    settings = bench.clients.station.task(task)
    shown, wanted = (settings.reset_task, True) if settings.reset_task else (task, False)
    known = bench.truth(shown)
    if known is not None:
        return _seen("the station's truth", shown, known, wanted)
    if trusted:
        return ResetSeen(False, "")
    instruction, judge = bench.clients.station.task(shown).instruction, bench.clients.judge
    picture = judge.see(bench)
    try:
        verdict = judge.ask(bench.goal, lambda actor: actor.look(picture, instruction))
    except GymnastError as error:
        return ResetSeen(False, f"reset check: the judge did not answer: {one_line(str(error), 200)}")
    if verdict.completed is None:
        return ResetSeen(False, f"reset check: the judge abstained: {one_line(verdict.reason, 200)}")
    judge.answered()
    return _seen("the judge", shown, verdict.completed, wanted)


def _seen(who: str, shown: str, done: bool, wanted: bool) -> ResetSeen:
    return ResetSeen(done != wanted, f"reset check: {who} says that '{shown}' is {'' if done else 'not '}done")

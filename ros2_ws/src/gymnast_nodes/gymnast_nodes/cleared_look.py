"""An episode judged with one more picture: of the scene after the arm has cleared it.

While a gripper hides the handle nobody can tell whether the drawer is shut. So the arm goes to its start first, and the
judge sees the episode's frames and then the cleared scene, which is kept beside them as cleared.png.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.data.frames import write_image
from gymnast_core.data.outcome import UNJUDGED
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.session import EpisodeOutcome
from gymnast_core.rollout.verdicts import keep_verdict

if TYPE_CHECKING:
    from gymnast_nodes.ros_bench import RosBench

PICTURE = "cleared.png"


def judge_cleared(bench: RosBench, instruction: str, outcome: EpisodeOutcome) -> EpisodeOutcome:
    """The outcome of a whole episode by what the judge sees; one whose end was not reached stays as it is.

    A judge that fails leaves the episode unjudged, with what it said. Raises: Cancelled.
    """
    if outcome.outcome != UNJUDGED or not outcome.episode_path:
        return outcome
    judge, path = bench.clients.judge, outcome.episode_path
    try:
        bench.visit(None)
        frame = judge.see(bench)
        write_image(Path(path) / PICTURE, frame)
        name, verdict = judge.ask(bench.goal, lambda actor: actor.judge(path, instruction, frame))
        found = keep_verdict(path, name, verdict, {"judge_saw": PICTURE})
    except GymnastError as error:
        return replace(outcome, message=f"not judged: {error}")
    if verdict.score is None:
        return replace(outcome, message=f"judge abstained: {verdict.reason}")
    judge.answered()
    return replace(outcome, outcome=found, judge_score=float(verdict.score))

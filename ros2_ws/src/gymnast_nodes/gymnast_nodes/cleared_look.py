"""An episode judged with one more picture: of the scene after the arm has cleared it.

While a gripper hides the handle nobody can tell whether the drawer is shut. So the arm goes to its start first, and the
judge sees the episode's frames and then the cleared scene, which is kept beside them as cleared.png.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.data.frames import resize_frame, write_image
from gymnast_core.data.outcome import UNJUDGED
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.session import EpisodeOutcome
from gymnast_core.files import user_path
from gymnast_core.rollout.station_actor import StationActor
from gymnast_core.rollout.verdicts import keep_verdict
from gymnast_nodes.long_action import Worker
from gymnast_nodes.messages import image_to_frame

if TYPE_CHECKING:
    from gymnast_nodes.lifecycle import ManagedNode
    from gymnast_nodes.ros_bench import RosBench

PICTURE = "cleared.png"


class ClearedLook:
    """The judge of a station, asked by the evaluator; it is loaded when it is asked first."""

    def __init__(self, node: ManagedNode) -> None:
        beside = user_path(node.station.recorder.folder, "recorder.folder").resolve().parent
        answers = beside / "evaluator" / f"{datetime.now():%Y%m%d_%H%M%S_%f}"
        self._judge = StationActor(node.station, node.config_path, answers)
        self._size = node.station.camera.observation_size
        self._worker = Worker("judge")

    def __call__(self, bench: RosBench, instruction: str, outcome: EpisodeOutcome) -> EpisodeOutcome:
        """The outcome of a whole episode by what the judge sees; one whose end was not reached stays as it is.

        A judge that fails leaves the episode unjudged, with what it said. Raises: Cancelled.
        """
        if outcome.outcome != UNJUDGED or not outcome.episode_path:
            return outcome
        try:
            bench.visit(None)
            frame = resize_frame(image_to_frame(bench.capture().image, "camera frame"), self._size)
            write_image(Path(outcome.episode_path) / PICTURE, frame)
            name, verdict = self._worker.do(
                bench.goal, lambda: self._judge.judge(outcome.episode_path, instruction, frame), math.inf
            )
            found = keep_verdict(outcome.episode_path, name, verdict, {"judge_saw": PICTURE})
        except GymnastError as error:
            return replace(outcome, message=f"not judged: {error}")
        if verdict.score is None:
            return replace(outcome, message=f"judge abstained: {verdict.reason}")
        return replace(outcome, outcome=found, judge_score=float(verdict.score))

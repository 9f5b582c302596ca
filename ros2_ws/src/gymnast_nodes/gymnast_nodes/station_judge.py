"""The judge of a station as the evaluator asks it: before the trials, about resets, and when the arm has cleared.

It is loaded when it is asked first, and asked in a thread of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.files import user_path
from gymnast_core.reward.check import JudgeAnswer
from gymnast_core.rollout.station_actor import StationActor
from gymnast_nodes.long_action import Goal, Worker
from gymnast_nodes.messages import image_to_frame

if TYPE_CHECKING:
    from gymnast_nodes.lifecycle import ManagedNode
    from gymnast_nodes.ros_bench import RosBench

Answer = TypeVar("Answer")
ANSWERED_S = 900.0
"""A judge that has answered within this time is not asked again before trials begin: each trial of a comparison is a
goal of its own, and a question may cost money."""


class StationJudge:
    """One for a node."""

    def __init__(self, node: ManagedNode) -> None:
        beside = user_path(node.station.recorder.folder, "recorder.folder").resolve().parent
        answers = beside / "evaluator" / f"{datetime.now():%Y%m%d_%H%M%S_%f}"
        self._node = node
        self._station = node.station
        self._actor = StationActor(node.station, node.config_path, answers)
        self._worker = Worker("judge")
        self._answered_at = -math.inf

    def answered(self) -> None:
        """It has just given a score, to whomever."""
        self._answered_at = time.monotonic()

    def ask(self, goal: Goal[Any], question: Callable[[StationActor], Answer]) -> Answer:
        """What it answers. Raises: GymnastError, Cancelled."""
        return self._worker.do(goal, lambda: question(self._actor), math.inf)

    def see(self, bench: RosBench) -> np.ndarray:
        """The scene now, as the judge is shown it, (S, S, 3) uint8. Raises: StationError, Cancelled."""
        frame = image_to_frame(bench.capture().image, "camera frame")
        return resize_frame(frame, self._station.camera.observation_size)

    def check(self, bench: RosBench, tasks: Sequence[str]) -> None:
        """Before trials of these tasks: it answers about what the camera sees now.

        Raises: StationError, one line, when it does not answer, or abstains on a task where nobody else knows;
            Cancelled.
        """
        log, evaluation = self._node.get_logger(), self._station.evaluation
        if time.monotonic() - self._answered_at < ANSWERED_S or self._station.judge.kind == "truth":
            return
        if self._station.judge.kind == "transformers" and not (evaluation.look_cleared or evaluation.reset_check):
            log.info("the judge was not asked before the trials: the executor alone loads its model")
            return
        words = {self._station.task(task).instruction: task for task in tasks}
        picture = self.see(bench)
        try:
            answer: JudgeAnswer | None = self.ask(bench.goal, lambda judge: judge.check_judge(picture, list(words)))
        except GymnastError as error:
            raise StationError(f"no trial begins, the judge does not answer: {error}") from error
        if answer is None:
            return
        self.answered()
        log.info(str(answer))
        for instruction, reason in answer.abstained.items():
            if bench.truth(words[instruction]) is None:
                raise StationError(f"no trial begins, nobody could tell what becomes of it: {reason}")
            log.warning(f"the station's truth alone counts: {reason}")

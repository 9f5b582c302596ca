"""The executor's look for success on the real frames: in the judge's thread, while the arm goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial

import numpy as np

from gymnast_core.errors import GymnastError
from gymnast_core.rollout.ending import SuccessWatch
from gymnast_nodes.long_action import Worker

QUICK_S = 0.05
"""The next action waits this long for a look: a learned judge then ends the episode before it."""


class SuccessLook:
    """Of one episode. worker: the judge's thread. warn: told why the judge cannot go on looking, where it cannot; the
    episode then goes on to its last step."""

    def __init__(self, worker: Worker, watch: SuccessWatch, warn: Callable[[str], None]) -> None:
        self._worker, self._warn = worker, warn
        self._watch: SuccessWatch | None = watch
        self._look: Future[bool] | None = None

    def see(self, frame: np.ndarray) -> bool:
        """Take the frame (S, S, 3) uint8 before the next action; whether the looks that are done by now have seen
        enough success. One look is under way at a time: what a slow judge says counts when it has said it."""
        frames = self._watch.see(frame) if self._watch is not None else []
        if frames and self._look is None and self._watch is not None:
            self._look = self._worker.begin(partial(self._watch.look, frames))
            wait([self._look], QUICK_S)
        return self._look is not None and self._look.done() and self._answer(self._look)

    def end(self) -> None:
        """A look that has not begun is left undone."""
        if self._look is not None:
            self._look.cancel()

    def _answer(self, look: Future[bool]) -> bool:
        self._look = None
        try:
            return look.result()
        except GymnastError as error:
            self._warn(f"the judge no longer looks for success in this episode: {error}")
            self._watch = None
            return False

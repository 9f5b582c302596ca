"""When an episode ends before its steps are spent: its judge sees success on the frames as they come.

The executor over ROS and trials without ROS end their episodes by this one rule, so that neither goes on pushing after
the task is done.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from gymnast_core.config import ExecutorConfig
from gymnast_core.protocols import Environment, Judge, OutcomeJudge

MEMORY = 512
"""At most this many frames are kept and shown; a longer episode forgets its first ones."""


class SuccessWatch:
    """Watches one episode. `see` takes the frame before each action, `look` asks the judge about those that it returns.

    config: how often to look, and how many looks in a row must see success.
    """

    def __init__(self, judge: Judge, instruction: str, config: ExecutorConfig) -> None:
        self._judge = judge
        self._instruction = instruction
        self._config = config
        self._frames: collections.deque[np.ndarray] = collections.deque(maxlen=MEMORY)
        self._seen = 0
        self._in_a_row = 0

    def see(self, frame: np.ndarray) -> list[np.ndarray]:
        """Take a frame (S, S, 3) uint8; returns all so far where it is time to look at them, nothing otherwise. The
        first one, before any action, is no success of this episode."""
        self._frames.append(frame)
        self._seen += 1
        due = self._seen > 1 and (self._seen - 1) % self._config.look_every == 0
        return list(self._frames) if due else []

    def look(self, frames: Sequence[np.ndarray]) -> bool:
        """Whether the judge has seen success on enough looks in a row, this one included; an abstention is no success.

        Raises: JudgeError.
        """
        shown = np.stack([frames[index] for index in self._judge.frame_indices(len(frames))])
        verdict = self._judge.judge([shown], [self._instruction])[0]
        self._in_a_row = self._in_a_row + 1 if verdict.completed else 0
        return self._in_a_row >= self._config.success_looks


Ending = Literal["truth", "nothing"] | Callable[[str], SuccessWatch]
"""What ends a trial before its steps are spent: the environment's truth, nothing, or, given an instruction, a watch."""


def station_ending(config: ExecutorConfig, judge: Judge | None) -> Ending:
    """What ends episodes on a station. The truth does where no judge is given, or the truth is the judge, since that is
    in no frame."""
    if not config.stop_at_success:
        return "nothing"
    if judge is None or isinstance(judge, OutcomeJudge):
        return "truth"
    return lambda instruction: SuccessWatch(judge, instruction, config)


class Watched:
    """Rollouts side by side in an environment that was reset, each with its own watch."""

    def __init__(self, environment: Environment, watches: Sequence[SuccessWatch]) -> None:
        self._environment = environment
        self._watches = list(watches)
        self._done = [False] * len(self._watches)
        self._count = 0
        self._see(0)

    def ends(self, steps: int) -> np.ndarray:
        """(N, steps) bool: after which of the latest `steps` actions each rollout's watch has seen enough."""
        found = np.zeros((len(self._watches), steps), dtype=bool)
        for step in range(steps):
            self._count += 1
            found[:, step] = self._see(self._count)
        return found

    def _see(self, index: int) -> list[bool]:
        frames = self._environment.video([index])[:, 0]
        for row, (watch, frame) in enumerate(zip(self._watches, frames)):
            if not self._done[row] and (frames_now := watch.see(frame)):
                self._done[row] = watch.look(frames_now)
        return self._done

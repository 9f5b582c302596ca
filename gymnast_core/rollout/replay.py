"""Known actions played again in an environment, side by side, and judged by the frames that came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.protocols import Environment, Judge, Start, Verdict


@dataclass(frozen=True)
class Replayed:
    """What came of one replay. video: (n, H, W, 3) uint8, the frames that the judge saw."""

    verdict: Verdict
    video: np.ndarray


def replay_actions(
    environment: Environment,
    judge: Judge,
    starts: Sequence[Start],
    actions: Sequence[np.ndarray],
    retreat: np.ndarray | None = None,
    tick: Callable[[int], None] | None = None,
) -> list[Replayed]:
    """Play actions[i], (T_i, 7), from starts[i]; the judge sees the frames up to the last action.

    retreat: (R, 7) actions that follow, by which the arm clears the view; the judge then sees nothing but the frames
    from the last of the R onwards, (the frame after action T_i + R alone where it looks at one).
    tick: called with the number of replays done.
    """
    replayed: list[Replayed] = []
    size = max(1, environment.max_rollouts)
    for begin in range(0, len(starts), size):
        batch = starts[begin : begin + size]
        played = list(actions[begin : begin + size])
        if retreat is not None:
            played = [np.concatenate((one, retreat)) for one in played]
        environment.reset(batch)
        environment.step(padded(played))
        indices = [_looked_at(judge, len(one), 0 if retreat is None else len(retreat)) for one in played]
        videos = frames_at(environment, indices)
        verdicts = judge.judge(videos, [start.instruction for start in batch])
        replayed += [Replayed(verdict, video) for verdict, video in zip(verdicts, videos, strict=True)]
        if tick is not None:
            tick(len(batch))
    return replayed


def frames_at(environment: Environment, indices: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """For each rollout the frames that it names, (n, H, W, 3) uint8; only these are decoded."""
    union = sorted({index for chosen in indices for index in chosen})
    decoded = environment.video(union)
    place = {index: number for number, index in enumerate(union)}
    return [decoded[row][[place[index] for index in chosen]] for row, chosen in enumerate(indices)]


def padded(actions: Sequence[np.ndarray]) -> np.ndarray:
    """(N, T, 7) of actions of different lengths; shorter ones end in zeros."""
    whole = np.zeros((len(actions), max(len(one) for one in actions), 7), np.float32)
    for row, one in enumerate(actions):
        whole[row, : len(one)] = one
    return whole


def _looked_at(judge: Judge, steps: int, retreat: int) -> list[int]:
    """Which of the frames 0 .. steps a judge is shown: its own choice, after a retreat among the last frames alone."""
    chosen = judge.frame_indices(steps + 1)
    return [index for index in chosen if index > steps - retreat] if retreat else chosen

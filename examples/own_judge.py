"""A judge of your own: what it must have, and how to measure it on logged episodes.

    gymnast data collect --out runs/judged --policy mixed --episodes 20 --tasks open_drawer
    python examples/own_judge.py runs/judged

This one has two pictures of the scene, before and after the task.
It looks which of them the end of an episode resembles.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from gymnast_core.data.episode import Episode, find_episodes, read_episode
from gymnast_core.protocols import Verdict
from gymnast_core.reward.agreement import measure_agreement


class BeforeAndAfter:
    """before, after: pictures (H, W, 3) uint8 RGB with the task undone and done."""

    name = "before and after"

    def __init__(self, before: np.ndarray, after: np.ndarray) -> None:
        self.pictures = np.stack([before, after]).astype(np.float32)

    def frame_indices(self, n_frames: int) -> list[int]:
        """Which frames it wants to see of an episode with `n_frames` frames: always the last one."""
        return [n_frames - 1]

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """One verdict for each video (n, H, W, 3), with the frames asked for. A score of None is an abstention."""
        verdicts = []
        for video in videos:
            before, after = np.abs(self.pictures - video[-1]).mean(axis=(1, 2, 3))
            share = before / max(before + after, 1e-6)
            score = None if 0.45 < share < 0.55 else float(share >= 0.55)
            verdicts.append(Verdict(score, max(share, 1 - share), f"{share:.0%} of the way to the second picture"))
        return verdicts


def main(folder: str) -> None:
    episodes = [read_episode(path) for path in find_episodes(folder)]
    labelled = [episode for episode in episodes if episode.success is not None]
    example = next(episode for episode in labelled if episode.success)
    judge = BeforeAndAfter(example.frames[0], example.frames[-1])

    def shown(episode: Episode) -> np.ndarray:
        return episode.frames[judge.frame_indices(len(episode.frames))]

    rest = [episode for episode in labelled if episode is not example]
    verdicts = judge.judge([shown(episode) for episode in rest], [episode.instruction for episode in rest])
    print(measure_agreement(verdicts, [bool(episode.success) for episode in rest]))


if __name__ == "__main__":
    main(sys.argv[1])

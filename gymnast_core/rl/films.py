"""Small films of imagined rollouts, kept while practice goes on, for whoever watches it.

A film is a strip of frames side by side (JPEG), which a page plays by moving it; imagined.jsonl says of each what the
judge said. The number of files is bounded: the oldest are written over.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence

import numpy as np

from gymnast_core.data.frames import encode_image, resize_frame
from gymnast_core.errors import DataError
from gymnast_core.files import append_line, read_json_lines, write_bytes
from gymnast_core.progress import say
from gymnast_core.reporting.imagined_films import FILMS, FILMS_LOG
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.run_folder import RunFolder

EACH_BATCH = 6
"""Films of one batch of rollouts, or of one measurement."""
MOST = 240
"""Files of one run."""
SIDE, LONGEST = 96, 16
"""Pixels of a frame's side, and frames of a film at most."""


class ImaginedFilms:
    """Keeps films in a run folder. A resumed run goes on with its numbers.

    A disk that takes no more ends the films, and not the practice.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._number = len(read_json_lines(run.path / FILMS_LOG))
        self._broken = False

    def keep(self, phase: str, update: int, rollouts: Sequence[Rollout]) -> None:
        """Write those of the rollouts that have pictures, `EACH_BATCH` at most.

        phase: "before", "train" or "after". update: the one that they are for.
        """
        shown = [one for one in rollouts if one.video is not None and len(one.video)]
        for place in np.linspace(0, len(shown) - 1, min(EACH_BATCH, len(shown))).astype(int).tolist():
            if self._broken:
                return
            try:
                self._write(phase, update, shown[place])
            except DataError as error:
                self._broken = True
                say(f"no more films of imagined rollouts: {error}", "yellow")

    def _write(self, phase: str, update: int, rollout: Rollout) -> None:
        assert rollout.video is not None
        count = len(rollout.video)
        frames = np.unique(np.linspace(0, count - 1, min(LONGEST, count)).round().astype(int))
        strip = np.concatenate([resize_frame(rollout.video[index], SIDE) for index in frames], axis=1)
        name = f"film_{self._number % MOST:04d}.jpg"
        write_bytes(self._run.path / FILMS / name, encode_image(strip, ".jpg"), durable=False)
        verdict = rollout.verdict
        line = {
            "number": self._number,
            "time": round(time.time(), 2),
            "phase": phase,
            "update": update,
            "film": name,
            "frames": len(frames),
            "instruction": rollout.start.instruction,
            "verdict": verdict_of(rollout),
            "score": rollout.reward if math.isfinite(rollout.reward) else None,
            "confidence": verdict.confidence if verdict is not None else None,
            "reason": verdict.reason[:200] if verdict is not None else "not judged",
            "meters": {name: round(value, 4) for name, value in rollout.meters.items() if math.isfinite(value)},
            "changed_share": round(rollout.changed_share, 4),
        }
        append_line(self._run.path / FILMS_LOG, json.dumps(line))
        self._number += 1


def verdict_of(rollout: Rollout) -> str:
    """ "success", "failure" or "abstained"."""
    if not math.isfinite(rollout.completed):
        return "abstained"
    return "success" if rollout.completed else "failure"

"""A video of each trial of a job, beside its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gymnast_core.errors import DataError
from gymnast_core.evaluation.session import TrialRecord

FOLDER = "videos"


def film_of(trial: int) -> str:
    """The name of a trial's video. trial: counted from 0."""
    return f"trial_{trial:04d}.mp4"


def film_trials(folder: Path, records: Sequence[TrialRecord], hz: float) -> None:
    """Make the videos that are missing in a job's folder; an episode that cannot be read has none. hz: frames per
    second."""
    for record in records:
        path = folder / FOLDER / film_of(record.trial)
        if path.exists() or not record.episode_path or not Path(record.episode_path).exists():
            continue
        from gymnast_core.data.formats import open_episode
        from gymnast_core.reporting.media import write_video

        try:
            frames = np.stack(list(open_episode(record.episode_path).frames()))
            write_video(path, frames, hz)
        except (DataError, ValueError):  # a trial counts without its video
            continue

"""What became of an episode, written into its folder after the recording ended (judged, or told by the station)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnast_core.data.episode import read_header
from gymnast_core.data.frames import write_bytes


def set_outcome(folder: str | os.PathLike[str], success: bool | None, facts: Mapping[str, Any]) -> None:
    """Set `success` of a recorded episode and add flat facts ("outcome_by", "judge_score", ...) to its metadata.

    Raises: DataError when the folder holds no episode or the file cannot be written; the old file then stays.
    """
    path = Path(folder) / "episode.json"
    header = read_header(path.parent)
    header["success"] = success
    header["metadata"] = {**header["metadata"], **facts}
    write_bytes(path, json.dumps(header, indent=1).encode())

"""What became of an episode, written into its folder after the recording ended (judged, or told by the station)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnast_core.data.frames import write_bytes
from gymnast_core.errors import DataError


def set_outcome(folder: str | os.PathLike[str], success: bool | None, facts: Mapping[str, Any]) -> None:
    """Set `success` of a recorded episode and add flat facts ("outcome_by", "judge_score", ...) to its metadata.

    Raises: DataError when the folder holds no episode or the file cannot be written; the old file then stays.
    """
    path = Path(folder) / "episode.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot read: {error}") from error
    header["success"] = success
    header["metadata"] = {**header.get("metadata", {}), **facts}
    write_bytes(path, json.dumps(header, indent=1).encode())

"""What a station file says that the console's page shows: it does not change while the station runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gymnast_core.data.frames import encode_image, read_image
from gymnast_core.errors import GymnastError
from gymnast_core.files import read_json, user_path
from gymnast_core.policy.adapter_state import read_evidence
from gymnast_core.policy.config import CROP_AREA
from gymnast_core.station_file import StationFile

MOST_ADAPTERS = 50


def station_facts(opened: StationFile) -> dict[str, Any]:
    """For the page. crop: of the squashed picture, (top, left, bottom, right) in shares of its sides, None where the
    policy sees all of it, or nobody knows."""
    station = opened.config
    return {
        "name": station.name,
        "simulated": station.simulation is not None,
        "tasks": [
            {"name": name, "instruction": task.instruction, "max_steps": task.max_steps}
            for name, task in station.tasks.items()
        ],
        "workspace": [list(station.safety.workspace_min), list(station.safety.workspace_max)],
        "start": list(station.arm.start_position),
        "max_effort_ma": station.arm.max_effort_ma,
        "crop": policy_crop(opened),
        "reference": bool(reference_of(opened)),
        "rounds": station.practise.rounds,
        "canary_trials": station.canary.trials,
        "iterations": station.adaptation.iterations,
    }


def policy_crop(opened: StationFile) -> list[float] | None:
    """The box that the station's policy cuts out of each frame; None where it sees all, or its checkpoint is not
    here."""
    try:
        variant = read_json(opened.policy_folder / "config.json").get("image_variant", "center_crop")
    except GymnastError:
        return None
    margin = (1.0 - math.sqrt(CROP_AREA)) / 2.0
    return None if variant == "resize" else [margin, margin, 1.0 - margin, 1.0 - margin]


def reference_of(opened: StationFile) -> Path | None:
    """The file of the reference photograph."""
    name = opened.config.evaluation.reference_view
    if not name:
        return None
    path = opened.path.parent / user_path(name)
    return path if path.is_file() else None


def reference_picture(opened: StationFile) -> bytes | None:
    """The reference photograph as JPEG; None where there is none. Raises: DataError where it cannot be read."""
    path = reference_of(opened)
    return None if path is None else encode_image(read_image(path), ".jpg")


def adapters_of(opened: StationFile) -> list[dict[str, str]]:
    """Name and state of this station's adapters, the latest first."""
    root = user_path(opened.config.models.adapters)
    found = [path.parent for path in root.glob("*/adapter.json") if path.parent.name.startswith(opened.config.name)]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST_ADAPTERS]
    return [{"name": path.name, "state": _state(path)} for path in newest]


def _state(folder: Path) -> str:
    try:
        return read_evidence(folder).words
    except GymnastError:
        return "damaged"

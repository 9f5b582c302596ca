"""How far an adapter has come: imagined, confirmed by the robot, or rolled back. The evidence lies with the weights."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from gymnast_core.errors import CheckpointError
from gymnast_core.files import write_json
from gymnast_core.results import read_record

EVIDENCE = "evidence.json"
State = Literal["imagined", "confirmed", "rolled back"]


@dataclass(frozen=True)
class Evidence:
    """What is known of an adapter.

    state: "imagined": only the gate has seen it, if anybody. "confirmed": paired trials on the robot found it better.
        "rolled back": they found it worse, or harder on the arm; no arm is driven by it again.
    gated: whether the gate let it through, the world model's figures included.
    reason: why it is in this state, in words. trials: figures of the paired trials. changed: UTC, ISO 8601.
    """

    state: State = "imagined"
    gated: bool = True
    reason: str = ""
    trials: dict[str, Any] = field(default_factory=dict)
    changed: str = ""

    @property
    def words(self) -> str:
        """For a list: the state, and that nothing vouches for an adapter where nothing does."""
        return self.state if self.gated or self.state != "imagined" else "imagined, ungated"


def read_evidence(folder: Path) -> Evidence:
    """The evidence in an adapter's folder; "imagined" and ungated where there is none.

    Raises: CheckpointError when it is damaged: an adapter that may have been rolled back is not used.
    """
    path = folder / EVIDENCE
    if not os.path.lexists(path):
        return Evidence(gated=False)
    return read_record(Evidence, path, "remove the adapter, or the file")


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Write it beside the weights, whole or not at all.

    Raises: CheckpointError when the adapter is gone, or was rolled back before: that stays.
    """
    if not any((folder / name).exists() for name in ("adapter.json", "adapter_config.json")):  # the latter: not ours
        raise CheckpointError(f"{folder}: the adapter is gone; it was deleted meanwhile")
    if read_evidence(folder).state == "rolled back" and evidence.state != "rolled back":
        raise CheckpointError(f"{folder}: this adapter was rolled back, which nothing undoes; practise again")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(folder / EVIDENCE, dataclasses.asdict(dataclasses.replace(evidence, changed=now)))

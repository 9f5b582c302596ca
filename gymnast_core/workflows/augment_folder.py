"""A folder of new starts: each a picture with its description, which says what it was made of and how.

    INSTRUCTION/MARK_NN.png, .json   a start in WorldGym's layout; the JSON also holds its lineage, under "augmented"
    augmented.json                   the options, every start with its lineage, and what was left out and why
    sheet.jpg                        some of the frames, before and after

A picture is written before its description, and without one it is no start: a kill leaves nothing half made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.frames import write_image
from gymnast_core.data.sidecar import read_description
from gymnast_core.data.trial_pictures import CRITERIA
from gymnast_core.errors import DataError
from gymnast_core.files import files_below, read_json, user_path, writable_folder, write_json
from gymnast_core.locks import lock_folder
from gymnast_core.plain_json import parse_json
from gymnast_core.run_folder import refuse_other_options
from gymnast_core.version import describe_version
from gymnast_core.workflows.augment_frames import Source

LINEAGE = "augmented"
SUMMARY = "augmented.json"


@dataclass(frozen=True)
class Augmented:
    """What a verb of `gymnast augment` made; written to augmented.json."""

    verb: str
    version: str
    options: dict[str, Any]
    starts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Lineage of each start, by its picture's path below the folder."""
    left_out: tuple[dict[str, str], ...] = ()
    """Frames of which nothing was made: source, and why."""
    spent: str = ""
    """On servers, in words."""
    whole: bool = False
    """Whether the verb came to its end."""


def folder_of(instruction: str) -> str:
    """A folder's name for an instruction: at most 60 letters, digits and lines."""
    return re.sub(r"[^a-z0-9]+", "_", instruction.lower()).strip("_")[:60] or "instruction"


class StartsFolder:
    """Writes new starts and goes on where an earlier run with the same options stopped.

    options: that decide what comes out; others may change. Raises: ConfigError where the folder cannot be written, is
    in use, or was begun with other options; DataError where its augmented.json is damaged.
    """

    def __init__(self, out: str, verb: str, options: Mapping[str, Any]) -> None:
        self.path = writable_folder(user_path(out, "out"), "out")
        self._lock = lock_folder(self.path)
        plain = parse_json(json.dumps(dict(options)))  # as it is read back: lists in place of tuples
        self._about = Augmented(verb, describe_version(), plain)
        summary = self.path / SUMMARY
        if summary.exists():
            earlier = read_json(summary)
            then = earlier.get("options")
            if earlier.get("verb") != verb or not isinstance(then, dict):
                raise DataError(f"{summary}: not written by `gymnast augment {verb}`; choose another --out")
            refuse_other_options(self.path, then, self._about.options, "--out")
        else:
            write_json(summary, asdict(self._about))

    def name(self, source: Source, instruction: str, number: int) -> str:
        """Path below the folder, without suffix, of the `number`-th start made of a source."""
        return f"{folder_of(instruction)}/{source.mark}_{number:02d}"

    def has(self, name: str) -> bool:
        """Whether this start is there, whole."""
        return self._file(name, ".json").exists() and self._file(name, ".png").exists()

    def write(
        self,
        name: str,
        frame: np.ndarray,
        instruction: str,
        source: Source,
        lineage: Mapping[str, Any],
        criteria: str = "",
    ) -> None:
        """Write one start. frame: (H, W, 3) uint8. lineage: what was done to its source. Raises: DataError."""
        content: dict[str, Any] = {"instruction": instruction}
        if criteria:
            content[CRITERIA] = criteria
        if source.start.position is not None:
            content["position"] = [round(float(one), 5) for one in source.start.position]
        content[LINEAGE] = {"verb": self._about.verb, "source": source.name, "source_mark": source.mark, **lineage}
        write_image(self._file(name, ".png"), frame)
        write_json(self._file(name, ".json"), content)

    def finish(self, left_out: Mapping[str, str], spent: str, whole: bool) -> Augmented:
        """Write augmented.json anew from what lies in the folder. left_out: sources and why."""
        starts: dict[str, dict[str, Any]] = {}
        for path in files_below(self.path, ".json"):
            content = read_description(path) if path.name != SUMMARY else {}
            lineage = content.get(LINEAGE)
            if isinstance(lineage, dict) and lineage.get("verb") == self._about.verb:  # others may have folders in it
                name = str(path.with_suffix(".png").relative_to(self.path))
                starts[name] = {"instruction": content.get("instruction"), **lineage}
        told = tuple({"source": source, "why": why} for source, why in left_out.items())
        done = Augmented(self._about.verb, self._about.version, self._about.options, starts, told, spent, whole)
        write_json(self.path / SUMMARY, asdict(done))
        return done

    def _file(self, name: str, suffix: str) -> Path:
        return self.path / f"{name}{suffix}"

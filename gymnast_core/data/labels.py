"""A person's word on an episode: whether it succeeded, and after which step. The log itself stays as it is.

    EPISODE/label.json    of an episode that is a folder
    FILE.label.json       beside an episode that is one file, such as N.mp4

Every verb that reads outcomes takes a person's label before the station's truth, and that before a judge's verdict.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import write_json
from gymnast_core.results import read_record

LABEL_FILE = "label.json"
BY_PERSON = "person"
"""Who said so (metadata "outcome_by")."""


@dataclass(frozen=True)
class Label:
    """What a person saw in an episode of T steps.

    success: whether the task was done in it; None where the person could not tell, so that nobody's verdict counts.
    steps: T of the episode that was looked at.
    step: after how many steps the task was done first, 0 to T: frame `step` is the first that shows it. None where it
        never was, or where nobody looked for it.
    who: the person's name. when: UTC, ISO 8601.

    Raises: ConfigError where step does not fit the rest.
    """

    success: bool | None
    steps: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=0)] | None = None
    who: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        if self.step is not None and not self.success:
            raise ConfigError(f"step: found {self.step} of an episode that is no success; needed none")
        if self.step is not None and self.step > self.steps:
            raise ConfigError(f"step: found {self.step}, allowed are 0 to {self.steps}")

    @property
    def words(self) -> str:
        """For people: "success after 12 steps"."""
        if self.success is None:
            return "cannot tell"
        if not self.success:
            return "failure"
        return "success" if self.step is None else f"success after {self.step} step{'s' * (self.step != 1)}"


def label_file(episode: str | os.PathLike[str]) -> Path:
    """Where the label of an episode lies. episode: its folder, or its one file."""
    path = Path(episode)
    return path / LABEL_FILE if path.is_dir() else path.with_name(f"{path.name}.{LABEL_FILE}")


def read_label(episode: str | os.PathLike[str]) -> Label | None:
    """The label of an episode; None where there is none. Raises: DataError for a damaged one."""
    path = label_file(episode)
    if not os.path.lexists(path):
        return None
    try:
        return read_record(Label, path, "remove the file and label the episode anew")
    except CheckpointError as error:
        raise DataError(str(error)) from error


def write_label(episode: str | os.PathLike[str], label: Label) -> Path:
    """Write it beside the episode, whole or not at all. Raises: DataError where that cannot be."""
    path = label_file(episode)
    write_json(path, dataclasses.asdict(label))
    return path


def remove_label(episode: str | os.PathLike[str]) -> None:
    """Take a label back, where there is one. Raises: DataError where that cannot be."""
    path = label_file(episode)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot remove: {error.strerror or error}") from error

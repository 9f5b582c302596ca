"""Mending for `gymnast data check`: `data recover`, with whatever it changes kept beside the episode."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gymnast_core.data.episode import HEADER_FILE, STEPS_FILE
from gymnast_core.data.recover import LOG_FOLDER, recover_episode
from gymnast_core.data.recover_log import KEPT
from gymnast_core.errors import DataError


def mend_episode(folder: Path) -> str:
    """Save what is whole of a recording; what was done, in one line. The old files stay as `*.damaged`.

    Raises: DataError where the old files cannot be kept; then nothing was changed.
    """
    kept = _keep_all(folder)
    try:
        told = recover_episode(folder)
    except DataError as error:  # what could be saved was saved
        told = str(error)
    names = [copy.relative_to(folder).as_posix() for file, copy in kept if not _is_unchanged(file, copy)]
    told = " ".join(told.replace(f"{folder}: ", "").replace(f"{folder}/", "").split())
    return f"{told}; kept: {', '.join(names)}" if names else told


def _keep_all(folder: Path) -> Sequence[tuple[Path, Path]]:
    """A second name for each file that mending may replace: it writes new files, so that the old content stays."""
    logs = (*(folder / LOG_FOLDER).glob("*.mcap"), folder / LOG_FOLDER / "metadata.yaml")
    kept: list[tuple[Path, Path]] = []
    try:
        for file in (folder / HEADER_FILE, folder / STEPS_FILE, *logs):
            if file.is_file():
                kept.append((file, _keep(file)))
    except OSError as error:
        for _, copy in kept:
            copy.unlink(missing_ok=True)
        raise DataError(f"{folder}: cannot keep a copy: {error.strerror or error}; nothing was changed") from error
    return kept


def _keep(file: Path) -> Path:
    number, copy = 1, file.with_name(file.name + KEPT)
    while os.path.lexists(copy):
        number += 1
        copy = file.with_name(f"{file.name}{KEPT}{number}")
    try:
        os.link(file, copy)
    except OSError:  # a file system without links
        shutil.copy2(file, copy)
    return copy


def _is_unchanged(file: Path, copy: Path) -> bool:
    """Whether a file was not replaced; then its second name goes away again."""
    try:
        same = file.samefile(copy) or file.read_bytes() == copy.read_bytes()
    except OSError:
        return False
    if same:
        with contextlib.suppress(OSError):
            copy.unlink()
    return same

"""Checks of an episode's files: header, steps, log and outcome can be read, and fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gymnast_core.data.episode import HEADER_FILE, START_FILE, STEPS_FILE, Episode, read_header
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.mcap_read import is_being_written, scan_log
from gymnast_core.data.recover import LOG_FOLDER
from gymnast_core.errors import DataError
from gymnast_core.evaluation.findings import Problem


def is_recording(folder: Path) -> bool:
    """Whether this is a folder of the recorder's format, with or without its header."""
    return any((folder / name).is_file() for name in (HEADER_FILE, START_FILE))


def is_recorded_now(folder: Path) -> bool:
    """Whether a running process still writes the episode in this folder."""
    try:
        return (folder / STEPS_FILE).is_file() and is_being_written(folder / STEPS_FILE)
    except DataError:
        return False


def check_header(folder: Path) -> Iterator[Problem]:
    """The header of a recording, and whether the recording was finished."""
    try:
        if read_header(folder).get("status") == "recording":
            yield Problem("recording_killed", "a recording that was cut short")
    except DataError as error:
        yield Problem("header_damaged", told(error, folder))


def check_count(folder: Path, episode: Episode) -> Iterator[Problem]:
    """Whether a finished recording still has the steps that its header counts."""
    try:
        header = read_header(folder)
    except DataError:
        return
    counted = header.get("steps")
    if header.get("status") != "recording" and isinstance(counted, int) and counted > episode.length:
        yield Problem("steps_lost", f"{episode.length} steps of {counted}", episode.length)


def check_log(folder: Path) -> Iterator[Problem]:
    """The bag of a recording, where it has one."""
    for path in sorted((folder / LOG_FOLDER).glob("*.mcap")):
        try:
            scan, _ = scan_log(path)
        except DataError as error:
            yield Problem("log_damaged", told(error, folder))
            continue
        if not scan.whole:
            lost = scan.damaged or scan.lost_bytes or scan.nameless
            what = f"{scan.lost_bytes} bytes that cannot be read" if lost else "no index at its end"
            yield Problem("log_damaged", f"{path.name}: {what}")


def check_outcome(source: StoredEpisode) -> Iterator[Problem]:
    """A person's label and what the log says of the outcome."""
    try:
        source.outcome()
    except DataError as error:
        yield Problem("outcome_damaged", told(error, source.path))


def told(error: DataError, path: Path) -> str:
    """An error of an episode in one line, without the episode's own path."""
    return " ".join(str(error).replace(f"{path}/", "").replace(f"{path}: ", "").split())

"""Finishes the log of a recorder that was killed, and saves what is whole of a damaged one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.data.mcap_log import McapLog
from gymnast_core.data.mcap_read import Scan, read_messages, scan_log
from gymnast_core.errors import DataError
from gymnast_core.files import read_whole, sync_folder
from gymnast_core.locks import grows, try_lock
from gymnast_core.plain_yaml import parse_yaml

KEPT = ".damaged"
"""The damaged file stays beside the recovered one under this ending: other tools may get more out of it."""


@dataclass(frozen=True)
class LogRecovery:
    """What `recover_bag` saved.

    path: the log.
    whole: nothing had to be done.
    counts: messages of each topic in it.
    lost_bytes: bytes that could not be read; those of a last chunk cut short count, too.
    kept: where the damaged file was put aside, None when nothing but its end was missing.
    """

    path: Path
    whole: bool
    counts: Mapping[str, int]
    lost_bytes: int = 0
    kept: Path | None = None

    @property
    def told(self) -> str:
        """In a few words."""
        text = f"log of {sum(self.counts.values())} messages {'was whole' if self.whole else 're-indexed'}"
        if self.kept is not None:
            text += f" without {self.lost_bytes} damaged bytes (the damaged file is kept as {self.kept.name})"
        return text


def recover_bag(folder: str | os.PathLike[str]) -> LogRecovery:
    """Write a bag anew from its whole chunks, with index and metadata, when it has damage or no end.

    The new file takes the old one's place only when it is complete and on the disk.

    Raises: DataError when there is no MCAP file in the folder, it is still being written, or nothing of it is MCAP.
    """
    folder = Path(folder)
    path = _log_file(folder)
    with _locked(path):
        for leftover in folder.glob(".recover.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scan, counts = scan_log(path)
        if scan.whole and _named_file(folder) == path.name:
            return LogRecovery(path, True, counts)
        return LogRecovery(path, False, counts, scan.lost_bytes, _rewrite(folder, path, scan))


def _rewrite(folder: Path, path: Path, scan: Scan) -> Path | None:
    """Put a new log in the place of `path`; returns where a damaged one was kept."""
    temporary = folder / f".recover.{os.getpid()}" / folder.name
    log = McapLog(temporary, name=path.name)
    kept: Path | None = None
    try:
        for topic, data, log_time, publish_time in read_messages(path):
            log.add_topic(topic)
            log.write(topic.name, data, log_time, publish_time)
        log.close()
        if scan.damaged or scan.nameless:
            kept = path.with_name(path.name + KEPT)
            if not kept.exists():
                _keep(path, kept)
        os.replace(log.path, path)
        os.replace(temporary / "metadata.yaml", folder / "metadata.yaml")
        sync_folder(folder)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        log.abandon()
        shutil.rmtree(temporary.parent, ignore_errors=True)
    return kept


def _keep(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # a file system without links
        shutil.copy2(path, kept)


def _log_file(folder: Path) -> Path:
    """The bag's log: the file its metadata names, or the one with the folder's name, or the only one there is."""
    files = sorted(folder.glob("*.mcap"))
    if not files:
        raise DataError(f"{folder}: no .mcap file in it")
    names = [path.name for path in files]
    for name in (_named_file(folder), f"{folder.name}_0.mcap"):
        if name in names:
            return folder / name
    if len(files) > 1:
        raise DataError(f"{folder}: found {len(files)} .mcap files ({', '.join(names)[:200]}), needed one")
    return files[0]


def _named_file(folder: Path) -> str:
    """The one file that metadata.yaml names; empty when it names none, or more, or cannot be read."""
    try:
        content = parse_yaml(read_whole(folder / "metadata.yaml").decode())
        names = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return str(names[0]) if len(names) == 1 else ""
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else writes or recovers the log meanwhile. Raises: DataError when somebody does."""
    try:
        file = open(path, "r+b")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    with file:
        taken = try_lock(file.fileno())
        if taken is False or (taken is None and grows(path)):
            raise DataError(f"{path}: is being written by a running recorder; stop the recording first")
        yield

"""Files of every room: found below a folder, read as JSON, written whole or not at all, put in place of older ones.

A rename that nobody synced may survive a power cut while the content it names does not: the file is then empty, and
what stood there before is gone. What is written here therefore reaches the disk before its name does.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gymnast_core.contents import unreadable
from gymnast_core.errors import CheckpointError, ConfigError, DataError, DocumentError, TwiceError
from gymnast_core.plain_json import parse_json

LONGEST_JSON = 64 << 20
"""Bytes of a JSON file."""
LONGEST_LINES = 1 << 30
"""Bytes of a JSON-lines file."""


def files_of_folders(root: str | os.PathLike[str]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at and below `root` with the names of its files, sorted; links to folders are followed, each once.

    Hidden files and folders are left out: what stands beside an episode as `._N.mp4` is the note of a file manager.
    """
    seen = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = {name: os.path.realpath(Path(folder) / name) for name in sorted(subfolders) if not hidden(name)}
        new = {path: name for name, path in real.items() if path not in seen}
        seen |= new.keys()
        subfolders[:] = new.values()
        yield Path(folder), sorted(name for name in names if not hidden(name))


def file_names(folder: Path) -> list[str]:
    """The names of the files in a folder, sorted, hidden ones left out; none where it cannot be read."""
    return next((names for _, names in files_of_folders(folder)), [])


def files_below(root: str | os.PathLike[str], suffix: str) -> list[Path]:
    """Files below `root` whose names end so, in either case, sorted by path; see `files_of_folders`."""
    return sorted(
        folder / name for folder, names in files_of_folders(root) for name in names if name.lower().endswith(suffix)
    )


def user_path(text: str | os.PathLike[str], name: str = "") -> Path:
    """A path as people write it, `~` included. name: of the setting, for the error.

    Raises: ConfigError where `~` names nobody's home, or the text is no path.
    """
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{name and name + ': '}{str(text)!r}: {error}; write the whole path") from error
    if "\0" in str(path):
        raise ConfigError(f"{name and name + ': '}{str(text)!r}: no path may hold a zero byte")
    return path


def writable_folder(folder: Path, name: str) -> Path:
    """The folder, made where it is missing, after a file was written there and removed.

    name: of the setting that names it. Raises: ConfigError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as error:
        raise ConfigError(f"{name}: nothing can be written into {folder}: {error.strerror or error}") from error
    return folder


def remove(path: Path) -> None:
    """Remove a file where that is possible: while another error is being reported, this one must not take its place."""
    with contextlib.suppress(OSError):
        path.unlink()


def _no_link(name: str, flags: int) -> int:
    """A link in a folder of somebody else would lead to any file."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def hidden(name: str) -> bool:
    """Whether this is the name of a hidden file or folder, which nobody put there as data."""
    return name.startswith(".")


def write_bytes(path: str | os.PathLike[str], content: bytes, durable: bool = True) -> None:
    """Write a file whole or not at all: a temporary file beside it, then a rename.

    durable: also after a power cut, once this has returned; False for files that are synced together later
        (`sync_file`, `sync_folder`).

    Raises: DataError naming the path when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # never through a link that somebody left under this name
            file.write(content)
            if durable:
                file.flush()
                sync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        remove(temporary)
        reason = error.strerror or error
        raise DataError(f"{path}: cannot write: {reason}; free disk space or choose another folder") from error


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 1) -> None:
    """Write a JSON file whole or not at all, also after a power cut. Raises: DataError, see `write_bytes`."""
    write_bytes(path, json.dumps(content, indent=indent).encode())


def sync(number: int) -> None:
    """Give an open file to the disk, on file systems that can be asked to; a share that cannot costs no file.

    Raises: OSError for what the disk did refuse.
    """
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def sync_file(path: str | os.PathLike[str]) -> None:
    """Give a file's content to the disk. Raises: OSError."""
    number = os.open(path, os.O_RDONLY)
    try:
        sync(number)
    finally:
        os.close(number)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Give a folder's names to the disk. Raises: OSError."""
    sync_file(path)


def sync_tree(root: str | os.PathLike[str]) -> None:
    """Give a folder, and all files and folders below it, to the disk. Raises: OSError."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            if not os.path.islink(os.path.join(folder, name)):
                sync_file(os.path.join(folder, name))
        sync_folder(folder)


def append_line(path: str | os.PathLike[str], text: str, durable: bool = False) -> None:
    """Add one line to a file, which is made where there is none; a last line cut short by a crash stays a line apart.

    durable: also after a power cut. Raises: DataError naming the path, also where a link leads to it.
    """
    try:
        with open(path, "ab+", opener=_no_link) as stream:
            if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
                text = f"\n{text}"
            stream.write(f"{text}\n".encode())
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}; free disk space") from error


def put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a folder that was written whole to `folder`; what is there goes once the new one is on the disk.

    Raises: OSError; then, and after an interrupt, what was there is there still. Only a kill between the two renames
    leaves it beside its place, as `.NAME.old`.
    """
    previous = folder.with_name(f".{folder.name}.old")
    try:
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
        sync_tree(temporary)
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    except BaseException:
        if previous.exists() and not folder.exists():
            os.replace(previous, folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def read_whole(path: str | os.PathLike[str], longest: int = LONGEST_JSON) -> bytes:
    """The content of an ordinary file of at most `longest` bytes, without the mark that some editors put before UTF-8.

    Raises: OSError, also for a pipe, a device and whatever else has no end, which are not waited for.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not an ordinary file", str(path))
        if about.st_size > longest:
            raise OSError(errno.EFBIG, f"longer than {longest >> 20} MB", str(path))
        return stream.read(longest).removeprefix(codecs.BOM_UTF8)


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a file. Raises: CheckpointError when it is missing, not JSON or something else."""
    try:
        content = parse_json(read_whole(path))
    except FileNotFoundError as error:
        what = "a link to nothing; download it again" if path.is_symlink() else "no such file"
        raise CheckpointError(f"{path}: {what}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {unreadable(path, error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {type(content).__name__}, needed a mapping")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSON-lines file; empty where there is no file. What is no object is left out, for instance a last line
    cut short by a crash. Raises: DataError where a name stands twice in one object; OSError."""
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(read_whole(path, LONGEST_LINES).decode(errors="replace").split("\n"), start=1):
        try:
            line = parse_json(text)
        except TwiceError as error:
            raise DataError(f"{path}:{number}: {error}") from error
        except DocumentError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

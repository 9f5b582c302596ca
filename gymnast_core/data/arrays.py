"""One array of numbers from an `.npz` or `.npy` file, which is outside input: nothing in it is run or guessed."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gymnast_core.contents import found_instead
from gymnast_core.errors import DataError

UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, RecursionError, NotImplementedError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, RuntimeError),
)
"""What NumPy and zipfile raise for broken files: a header is read as Python, and an archive may be encrypted."""
MAX_BYTES = 256_000_000
"""Of an array, unpacked: an hour of actions has some hundred kilobytes."""


def read_array(path: str | os.PathLike[str], names: Sequence[str]) -> np.ndarray:
    """The array of a `.npy`, or that of an `.npz` called by the first of `names` there is; float32, any shape, finite.

    Raises: DataError naming the file: missing, broken, pickled objects, no such array, no real numbers, not finite,
        over 256 MB.
    """
    path = Path(path)
    if path.suffix != ".npz" and path.is_file():
        _check_bytes(path.stat().st_size, path)
    elif path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise DataError(f"{path}: not an ordinary file; needed numbers saved by numpy")
    wanted = " or ".join(f"'{name}'" for name in names)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            array = content
        else:
            with content as archive:
                name = next((name for name in names if name in archive.files), "")
                if not name:
                    found = ", ".join(archive.files[:5]) or "nothing"
                    raise DataError(f"{path}: holds {found[:80]}; needed an array {wanted}")
                if archive.files.count(name) > 1:
                    raise DataError(f"{path}: holds the array '{name}' twice; write it anew")
                _check_bytes(archive.zip.getinfo(f"{name}.npy").file_size, path)
                array = archive[name]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UNREADABLE as error:
        pickled = "allow_pickle" in str(error)
        parsed = "holds Python objects or no arrays at all" if pickled else str(error) or type(error).__name__
        why = found_instead(path, "NumPy") or parsed
        raise DataError(f"{path}: cannot read an array {wanted} ({why}); needed numbers saved by numpy") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {wanted} is of type {array.dtype}; needed real numbers")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
        numbers = array.astype(np.float32)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise DataError(f"{path}: found {array[tuple(bad[0])]} at [{place}]; needed finite numbers")
    return numbers


def _check_bytes(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{path}: found an array of {size / 1e6:.0f} MB, allowed are {MAX_BYTES / 1e6:.0f} MB")

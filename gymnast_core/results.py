"""Results are types: a frozen dataclass, written to result.json and read back by whoever needs it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, TypeVar

from gymnast_core.config import parse_config
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import read_json, write_json

RESULT = "result.json"
_written: list[Path] = []
Result = TypeVar("Result")


def write_result(folder: str | os.PathLike[str], result: Any) -> Path:
    """Write result.json, whole or not at all. result: a dataclass or a mapping. Raises: DataError."""
    path = Path(folder) / RESULT
    content = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else dict(result)  # type: ignore[arg-type]
    write_json(path, content)
    _written[:] = [path]
    return path


def last_written() -> Path | None:
    """The result that this process wrote last; None before the first one."""
    return _written[0] if _written else None


def read_result(kind: type[Result], folder: str | os.PathLike[str]) -> Result:
    """The result in a run folder. Raises: DataError when it is missing, not JSON, or not a result of this kind."""
    path = Path(folder) / RESULT
    try:
        return read_record(kind, path)
    except CheckpointError as error:
        raise DataError(str(error)) from error


def read_record(kind: type[Result], path: Path, advice: str = "") -> Result:
    """A dataclass from a JSON file. advice: what to do about a damaged one, for the error.

    Raises: CheckpointError when the file is missing, not JSON, or holds no record of this kind.
    """
    try:
        return parse_config(kind, read_json(path), str(path))
    except (CheckpointError, ConfigError) as error:
        told = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: damaged ({told}){advice and '; ' + advice}") from error

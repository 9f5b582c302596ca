"""A small JSON file beside an episode or a data set, which says what its arrays and pictures do not."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

from gymnast_core.errors import DataError
from gymnast_core.files import read_whole
from gymnast_core.plain_json import parse_json


def read_description(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file that describes an episode or a data set; empty where there is no file.

    Raises: DataError naming the file when it is something else.
    """
    if not path.exists():
        return {}
    try:
        content = parse_json(read_whole(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: needed a JSON mapping with instruction and success ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: needed a JSON mapping with instruction and success, found {type(content).__name__}")
    return content


def read_sidecar(path: Path) -> tuple[str, bool | None]:
    """Instruction and outcome from `{"instruction": ..., "success": ...}`; empty and None where there is none.

    Raises: DataError naming file and field.
    """
    content = read_description(path)
    text, success = content.get("instruction", ""), content.get("success")
    if not isinstance(text, str):
        raise DataError(f"{path}: instruction: found {type(text).__name__}, needed text")
    if not isinstance(success, (bool, type(None))):
        raise DataError(f"{path}: success: found {shorten(repr(success), 60)}, needed true, false or null")
    return text, success


def named_camera(folder: Path) -> str:
    """The camera that `{"camera": "NAME"}` in a dataset.json names, in this folder or up to two above; "" where none
    does. Raises: DataError."""
    whole = folder.resolve()
    for place in (above / "dataset.json" for above in [whole, *whole.parents][:3]):
        said = read_description(place).get("camera")
        if said is not None and not isinstance(said, str):
            raise DataError(f"{place}: camera: found {type(said).__name__}, needed the name of a camera")
        if said:
            return said
    return ""

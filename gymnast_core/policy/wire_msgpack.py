"""Messages of openpi's WebSocket interface: msgpack, in which an array is a mapping with keys of bytes.

{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": (K, 7)}
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from gymnast_core.contents import name_content, one_line
from gymnast_core.errors import DataError
from gymnast_core.policy.wire_arrays import NOT_AN_ARRAY, array_of

MAX_ENTRIES = 256
"""Of one mapping; of one list four times as many."""
MAX_TEXT = 1 << 16


def pack(content: dict[str, Any]) -> bytes:
    """A message. Values are numbers, texts, lists, mappings and arrays of numbers."""
    packed: bytes = msgpack.packb(content, default=_pack_array)
    return packed


def unpack(message: bytes, where: str) -> dict[Any, Any]:
    """The mapping that a message holds, its arrays read only.

    Raises: DataError naming `where`: no msgpack, no mapping, or an array that is none (an object array among them).
    """
    try:
        content = msgpack.unpackb(
            message,
            object_hook=_unpack_array,
            max_str_len=MAX_TEXT,
            max_array_len=4 * MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
            max_ext_len=0,
        )
    except (*NOT_AN_ARRAY, msgpack.UnpackException, RecursionError) as error:
        told = name_content(message[:512]) or one_line(str(error), 120) or type(error).__name__
        raise DataError(f"{where}: no msgpack message: {told}") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: found {type(content).__name__}, needed a mapping")
    return content


def _pack_array(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise TypeError(f"found {type(value).__name__}, needed an array of numbers")
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _unpack_array(content: dict[Any, Any]) -> Any:
    if b"__ndarray__" in content:
        data = content[b"data"]
        if not isinstance(data, bytes):
            raise ValueError(f"an array's data is {type(data).__name__}, needed bytes")
        return array_of(data, content[b"dtype"], content[b"shape"])
    if b"__npgeneric__" in content:
        return content[b"data"]
    return content

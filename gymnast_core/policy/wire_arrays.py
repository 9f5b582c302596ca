"""Arrays between a policy server and its clients: json_numpy's mapping within JSON, openpi's within msgpack.

Both are decoded by hand: a number's type from a short list, the size checked before an array is made, never a pickle.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gymnast_core.contents import name_content, one_line

MAX_DEPTH = 4
"""Axes of an array."""
NUMBER = re.compile(r"[<>|=]?[fiu][1248]|float(16|32|64)|u?int(8|16|32|64)")
NOT_AN_ARRAY = (KeyError, TypeError, ValueError, OverflowError, binascii.Error)
"""What decoding raises for content that is no array of numbers."""


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """An array as json_numpy writes it."""
    return {
        "__numpy__": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def decode_json_numpy(content: Mapping[str, Any]) -> np.ndarray:
    """The array of a mapping that json_numpy wrote, read only. Raises: one of NOT_AN_ARRAY."""
    text = content["__numpy__"]
    if not isinstance(text, str):
        raise ValueError(f"__numpy__ holds {type(text).__name__}, needed base64 text")
    return array_of(base64.b64decode(text, validate=True), content["dtype"], content["shape"])


def array_of(blob: bytes, dtype: object, shape: Sequence[Any]) -> np.ndarray:
    """An array (read only) over its bytes. Raises: one of NOT_AN_ARRAY, also where the bytes do not fill the shape."""
    if not NUMBER.fullmatch(str(dtype)):
        raise ValueError(f"dtype {str(dtype)[:20]!r} is no number")
    kind, sides = np.dtype(str(dtype)), tuple(int(n) for n in shape[: MAX_DEPTH + 1])
    if len(sides) > MAX_DEPTH or any(n < 0 for n in sides) or math.prod(sides) * kind.itemsize != len(blob):
        raise ValueError(f"{len(blob)} bytes for shape {one_line(str(sides), 60)} of {kind}")
    return np.frombuffer(blob, kind).reshape(sides)


def name_value(value: object) -> str:
    """What stands where an array should, in words: "a list", "a PNG picture"."""
    if isinstance(value, (bytes, bytearray)):
        return name_content(bytes(value[:512])) or f"{len(value)} bytes"
    if isinstance(value, str):
        head = value[:64].rpartition(",")[2][:32]  # behind the head of a data URL
        try:
            inside = name_content(base64.b64decode(head[: len(head) // 4 * 4], validate=True))
        except (binascii.Error, ValueError):
            inside = ""
        return f"{inside} as text" if inside and not inside.startswith(("text", "empty")) else "text"
    names = {"dict": "a mapping", "list": "a list", "NoneType": "nothing"}
    return names.get(type(value).__name__, type(value).__name__)

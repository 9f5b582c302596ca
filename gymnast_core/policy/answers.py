"""What a policy server answered: a chunk of actions, or the server's own words why there is none.

Servers that speak AutoEval's interface differ in how they write a chunk: json_numpy's mapping, plain lists, a list of
json_numpy's mappings (OpenVLA-OFT's), any of these as text within JSON, or under "actions" or "action". Some report
an error with status 200.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gymnast_core.contents import name_content, one_line
from gymnast_core.data.episode import ACTION_DIM, check_actions
from gymnast_core.errors import DataError
from gymnast_core.plain_json import parse_json
from gymnast_core.policy.wire_arrays import MAX_DEPTH, NOT_AN_ARRAY, decode_json_numpy

MAX_REPLY = 1 << 20
"""Bytes of an answer, also once it is unpacked."""
ACTION_KEYS = ("actions", "action")
ERROR_KEYS = ("error", "errors", "exception", "traceback")
WORD_KEYS = ("detail", "message", "msg", "reason")
FAILURE = re.compile(r"\b(error|fail(ed|ure|s)?|exception|unavailable|loading|not ready)\b", re.IGNORECASE)


class Answer(NamedTuple):
    """An HTTP answer. body: at most one byte more than MAX_REPLY. encoding, location: headers, "" where missing."""

    status: int
    body: bytes
    encoding: str = ""
    location: str = ""


def read_actions(answer: Answer, where: str) -> np.ndarray:
    """Actions (K, 7) float32 of an answer to /act, K at least 1.

    Raises: DataError naming `where`, with the server's own words where it gave any.
    """
    if answer.status != 200:
        raise DataError(f"{where}: answered {describe(answer)}, needed 200")
    body = _unpack(answer, where)
    try:
        content = _parse(body)
        words = refusal(content)
    except (ValueError, RecursionError) as error:
        told = "" if body.lstrip()[:1] in (b"{", b"[") else name_content(body)
        raise DataError(f"{where}: answered no JSON: {told or one_line(str(error))}") from error
    if words:
        raise DataError(f"{where}: answered {words!r}, needed actions")
    actions = decode_array(content, where)
    outer = [n for n in actions.shape[:-1] if n != 1]
    if actions.shape[-1:] == (ACTION_DIM,) and len(outer) < 2:  # one action, or a batch of one chunk
        actions = actions.reshape(-1, ACTION_DIM)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return check_actions(actions, where)


def read_object(answer: Answer, where: str) -> dict[str, Any]:
    """The JSON object of an answer with status 200. Raises: DataError naming `where`, with the server's own words."""
    if answer.status != 200:
        raise DataError(f"{where}: answered {describe(answer)}, needed 200")
    try:
        content = _parse(_unpack(answer, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: answered no JSON: {name_content(answer.body) or one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: answered {_kind(content)}, needed a JSON object")
    return content


def check_reset(answer: Answer, where: str) -> None:
    """See that an answer to /reset reports no error; a server that has no /reset answers 404.

    Raises: DataError naming `where`, with the server's own words where it gave any.
    """
    if answer.status not in (200, 204, 404):
        raise DataError(f"{where}: answered {describe(answer)}, needed 200")
    try:
        content = _parse(_unpack(answer, where)) if answer.status == 200 and answer.body else None
        words = refusal(content)
    except (ValueError, RecursionError):  # nothing is needed in it
        return
    if words and (not isinstance(content, str) or FAILURE.search(words)):
        raise DataError(f"{where}: answered {words!r}")


def describe(answer: Answer) -> str:
    """Status and words of an answer that is no success: "503 'Server not ready'"."""
    if 300 <= answer.status < 400:
        target = one_line(answer.location) or "nowhere"
        return f"{answer.status}, a redirect to {target!r} (redirects are not followed)"
    try:
        content = _parse(_unpack(answer, ""))
        words = repr(refusal(content) or one_line(json.dumps(content)))
    except (ValueError, RecursionError, DataError):
        words = name_content(answer.body)
    return f"{answer.status}, {words}" if words else str(answer.status)


def refusal(content: Any) -> str:
    """The server's own words where content of an answer says that something is wrong; "" where it does not."""
    if isinstance(content, str):
        return one_line(content) or "empty text"
    if isinstance(content, list):
        return next((words for item in content if isinstance(item, dict) and (words := refusal(item))), "")
    if not isinstance(content, Mapping) or "__numpy__" in content:
        return ""
    status = content.get("status")
    failed = content.get("success") is False or content.get("ok") is False
    failed = failed or (isinstance(status, str) and FAILURE.search(status) is not None)
    failed = failed or (isinstance(status, int) and status >= 400)
    names = [name for name in ERROR_KEYS if content.get(name)]
    if not names and not failed and any(name in content for name in ACTION_KEYS):
        return ""
    for name in (*names, *WORD_KEYS):
        value = content.get(name)
        if value and value is not True:
            return one_line(value if isinstance(value, str) else json.dumps(value))
    return one_line(json.dumps(content)) if names or failed else ""


def _parse(body: bytes | str) -> Any:
    """JSON; text within it that is JSON too is read as well (some servers encode twice). Raises: ValueError."""
    content = parse_json(body)
    if isinstance(content, str):
        try:
            return parse_json(content)
        except ValueError:
            return content
    return content


def _unpack(answer: Answer, where: str) -> bytes:
    """The body without its compression, which was not asked for but comes. Raises: DataError."""
    if len(answer.body) > MAX_REPLY:
        raise DataError(f"{where}: answered more than {MAX_REPLY} bytes")
    encoding = answer.encoding.strip().lower()
    if encoding in ("", "identity"):
        return answer.body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DataError(f"{where}: answered in encoding {one_line(encoding, 40)!r}, needed none, gzip or deflate")
    unpacker = zlib.decompressobj(wbits=47)  # gzip's or zlib's head
    try:
        body = unpacker.decompress(answer.body, MAX_REPLY + 1)
    except zlib.error as error:
        raise DataError(f"{where}: answered damaged {encoding} data ({error})") from error
    if len(body) > MAX_REPLY:
        raise DataError(f"{where}: answered more than {MAX_REPLY} bytes once unpacked")
    if not unpacker.eof:
        raise DataError(f"{where}: answered {encoding} data that is cut short")
    return body


def decode_array(content: Any, where: str) -> np.ndarray:
    """Numbers from json_numpy's mapping, a plain list, a list of such mappings, or "actions": any of these.

    Raises: DataError naming `where`.
    """
    try:
        if isinstance(content, Mapping) and "__numpy__" not in content:
            named = [name for name in ACTION_KEYS if name in content]
            if len(named) != 1:
                raise ValueError(f"found {one_line(json.dumps(content), 120)}; needed {' or '.join(ACTION_KEYS)}")
            content = _parse(content[named[0]]) if isinstance(content[named[0]], str) else content[named[0]]
        if not isinstance(content, (list, Mapping)):
            raise ValueError(f"found {_kind(content)}, needed a list of numbers")
        return _numbers(content)
    except (*NOT_AN_ARRAY, RecursionError) as error:
        raise DataError(f"{where}: not an array of actions ({error})") from error


def _numbers(content: Any, depth: int = 0) -> np.ndarray:
    """Raises: KeyError, TypeError, ValueError, OverflowError."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(content, str) and content.lstrip()[:1] in ("[", "{"):
        content = parse_json(content)
    if isinstance(content, Mapping) and "__numpy__" in content:
        return decode_json_numpy(content).astype(np.float64)
    if isinstance(content, list):
        if all(type(item) in (int, float) for item in content):
            return np.asarray(content, dtype=np.float64)
        parts = [_numbers(item, depth + 1) for item in content]
        if len(shapes := sorted({part.shape for part in parts})) > 1:
            raise ValueError(f"parts of shapes {' and '.join(map(str, shapes[:3]))}")
        return np.stack(parts)
    if type(content) not in (int, float):
        raise ValueError(f"found {_kind(content)}, needed numbers")
    return np.asarray(float(content))


def _kind(content: Any) -> str:
    return f"text {one_line(content, 60)!r}" if isinstance(content, str) else json.dumps(content)[:60]

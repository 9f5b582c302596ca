"""The body of an HTTP request, with a limit of bytes and of time."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request

from gymnast_core.errors import DocumentError
from gymnast_core.plain_json import parse_json
from gymnast_core.serve.refusal import Refusal

CLOSE = {"Connection": "close"}
SKIPPED = 4
"""A body that is too large is read, and thrown away, up to this many times the limit: only then does the client read
why it is refused. Behind that the connection is closed."""


class Gone(Exception):
    """The client has left; nobody waits for an answer."""


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, at most `limit` bytes, whole within `seconds`. Raises: Refusal 408, 413; Gone."""
    length = request.headers.get("content-length", "")
    body = None
    if not length.isdigit() or int(length) <= SKIPPED * limit:
        try:
            body = await asyncio.wait_for(_collect(request, limit), seconds)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise Refusal(408, f"the request did not arrive whole within {seconds:g} s", CLOSE) from error
    if body is None:
        found = length or f"more than {limit}"
        raise Refusal(413, f"found {found} bytes, allowed are {limit} (--max-body)", CLOSE)
    return body


async def _collect(request: Request, limit: int) -> bytes | None:
    """The body; None where it is too large. Raises: Gone."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] != "http.request":
            raise Gone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > SKIPPED * limit:
            return None
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= limit else None


def read_object(body: bytes) -> dict[str, Any]:
    """A request's JSON object; nothing is an empty one. Raises: Refusal 400."""
    try:
        content = parse_json(body) if body.strip() else {}
    except DocumentError as error:
        raise Refusal(400, f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refusal(400, f"found {type(content).__name__}, needed a JSON object")
    return content

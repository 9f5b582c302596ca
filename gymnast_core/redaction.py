"""Secrets are taken out of foreign words before these are shown or kept: a server may echo a key in its error text.

Known secrets are those given to `remember_secret` and the values of environment variables named like one
(`..._API_KEY`, `..._TOKEN`, `..._SECRET`, `..._PASSWORD`). What has the form of a secret is taken out too.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import string
from collections.abc import Mapping
from typing import Any, TypeVar, cast
from urllib.parse import quote

Value = TypeVar("Value")
HIDDEN = "[secret]"
PIECE = 8
"""This many characters of a secret in a row are hidden too; masked forms such as "sk-...abcd" stay."""
SHORTEST = 4
PLACEHOLDERS = frozenset(
    ("none", "empty", "ollama", "lm-studio", "dummy", "not-needed", "no-key", "sk-no-key-required", "test", "token")
)
"""What people write where a server needs no key: words, not secrets."""

_NAMED = re.compile(r"(?:^|_)(?:API_?KEY|ACCESS_?KEY|SECRET_?KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_FORMS = (
    re.compile(
        r"(\b(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?)[^\s\"',;}\[]+"
        r"|(\b(?:x-)?(?:goog-)?api[-_]?key[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}\[]{4,}"
        r"|(\b(?:access[_-]?token|client[_-]?secret|password|passwd)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}\[]{4,}"
        r"|(\b(?:bearer|basic)\s+)(?=[^\s\"']*\d)[\w.~+/=-]{8,}"
        r"|([?&;](?:key|token|auth|sig|signature|secret|pwd)=)[^&\s\"'<>\[]+"
        r"|(://)[^/\s@\"'\[]+(?=@)",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b()(?:(?:sk|pk|rk|gsk|xai|nvapi)[-_][\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|AIza[\w-]{30,}|AKIA[0-9A-Z]{16}"
        r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    ),
)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_remembered: set[str] = set()


def remember_secret(value: str) -> None:
    """Let `redact` hide this value from now on, in this process."""
    if len(value) >= SHORTEST and value.lower() not in PLACEHOLDERS:
        _remembered.add(value)


def redact(text: str) -> str:
    """The text with every known secret, each piece of one, and what has the form of one replaced by "[secret]"."""
    for secret in _known():
        for form in {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}:
            text = _hide(text, form)
    for pattern in _FORMS:
        text = pattern.sub(lambda found: "".join(group or "" for group in found.groups()) + HIDDEN, text)
    return text


def holds_secret(text: str, forms: bool = True) -> bool:
    """Whether a known secret stands in a text, or, with `forms`, what has the form of one. Pieces do not count."""
    return any(secret in text for secret in _known()) or (forms and any(one.search(text) for one in _FORMS))


def redact_all(value: Value) -> Value:
    """The same for all text within tuples, lists, mappings and dataclasses."""
    found: Any = value
    if isinstance(value, str):
        found = redact(value)
    elif isinstance(value, Mapping):
        found = {redact_all(name): redact_all(one) for name, one in value.items()}
    elif isinstance(value, (list, tuple)):
        found = type(value)(redact_all(one) for one in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: redact_all(getattr(value, field.name)) for field in dataclasses.fields(value)}
        found = dataclasses.replace(value, **changed)
    return cast(Value, found)


def _known() -> set[str]:
    named = {value.strip() for name, value in os.environ.items() if _NAMED.search(name)}
    # A path or a sentence under such a name is no secret, and its pieces are ordinary words.
    return _remembered | {one for one in named if re.fullmatch(r"[!-~]{12,}", one) and one[0] not in "/~."}


def _hide(text: str, secret: str) -> str:
    if len(secret) < PIECE:
        return text.replace(secret, HIDDEN)
    low, wanted = text.translate(_LOWER), secret.translate(_LOWER)
    covered: list[tuple[int, int]] = []
    for begin in range(len(wanted) - PIECE + 1):
        piece = wanted[begin : begin + PIECE]
        place = low.find(piece)
        while place >= 0:
            covered.append((place, place + PIECE))
            place = low.find(piece, place + 1)
    parts: list[str] = []
    end = 0
    for begin, stop in sorted(covered):
        if begin > end or not parts:
            parts += [text[end:begin], HIDDEN]
        end = max(end, stop)
    return "".join(parts) + text[end:]

"""Secrets are taken out of foreign words before these are shown or kept: a server may echo a key in its error text.

Known secrets are those given to `remember_secret` and the values of environment variables named like one
(`..._API_KEY`, `..._TOKEN`, `..._SECRET`, `..._PASSWORD`, `..._WEBHOOK`), of headers and of proxies, in every form in
which a server may send them back. What has the form of a secret is taken out too.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import json
import os
import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

Value = TypeVar("Value")
HIDDEN = "[secret]"
PIECE = 8
"""This many characters of a secret in a row are hidden too; masked forms such as "sk-...abcd" stay."""
SHORTEST = 4
PLACEHOLDERS = frozenset(
    ("none", "empty", "ollama", "lm-studio", "dummy", "not-needed", "no-key", "sk-no-key-required", "test", "token")
)
"""What people write where a server needs no key: words, not secrets."""

_NAMED = re.compile(
    r"(?:^|_)(?:API_?KEY|ACCESS_?KEY|SECRET_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PAT|CREDENTIALS?|WEBHOOK(?:_URL)?"
    r"|CALL_SLACK)$",
    re.IGNORECASE,
)
_IS = r"[\"']?\s*[:=,]\s*[\[(]?\s*(?:b?[\"'])?"
"""Between a name and its value, in a header, a setting, JSON, and Python's lists of headers."""
_MIXED = r"(?=[^\s\"'&<>\[]{0,80}\d)(?=[^\s\"'&<>\[]{0,80}[A-Za-z])"
"""Ahead of a value with letters and digits: what follows words that stand before other things than secrets, too."""
_FORMS = (
    re.compile(
        rf"((?<![A-Za-z])(?:proxy-)?authorization{_IS}(?:(?:bearer|basic|token|apikey|key)\s+)?)"
        r"(?!(?:b?[\"'])?(?:\w{1,9}\s+)?\[secret\])[^\s\"',;}\[]+"
        r"|((?<![A-Za-z])api[-_]?key[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}\[]{4,}"
        rf"|((?<![A-Za-z])api\ key(?:\s+provided)?\s*[:=]\s*[\"']?){_MIXED}"
        r"(?![^\s\"']{0,80}(?:\.\.\.|\*\*))[\w.~+/=-]{8,}"
        r"|((?<![A-Za-z])(?:access|auth|security|refresh|session)[ _-]?token[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}\[]{4,}"
        r"|((?<![A-Za-z])(?:client[_-]?secret|password|passwd|passphrase|(?:subscription|secret|private)-?key)"
        r"[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}\[]{4,}"
        rf"|((?<![A-Za-z])(?:token|secret)[\"']?\s*[:=]\s*[\"']?){_MIXED}[^\s\"',;&}}\[]{{8,}}"
        r"|((?<![A-Za-z-])(?:set-)?cookie[\"']?\s*[:=]\s*[\"']?)[^\r\n\"'\[]{4,}"
        r"|(\b(?:bearer|basic)\s+)(?:(?=[^\s\"']{0,80}\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})"
        r"|([?&;](?:[\w-]{0,40}[-_])?(?:key|token|auth|sig|signature|secret|pwd|credential)=)[^&\s\"'<>\[]+"
        r"|(://)[^/?#\s\"'\[]+(?=@)"
        r"|(hooks\.slack\.com/[a-z]{1,20}/|/api/webhooks/\d{1,30}/|/webhookb2/|api\.telegram\.org/bot)[\w/:@-]{8,}",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b()(?:(?:sk|pk|rk|gsk|xai|nvapi)[-_][\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|AIza[\w-]{30,}"
        r"|A[KS]IA[0-9A-Z]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?:xox[a-z]|xapp|glpat|pplx)-[\w-]{12,}|ya29\.[\w-]{12,}"
        r"|(?:r8|npm|dckr_pat|tgp_v1|whsec)_[\w-]{16,})"
        r"|()-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"
    ),
)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_URL_SAFE = str.maketrans("+/", "-_")
_remembered: set[str] = set()


def remember_secret(value: str) -> None:
    """Let `redact` hide this value from now on, in this process."""
    if len(value) >= SHORTEST and value.lower() not in PLACEHOLDERS:
        _remembered.add(value)


def redact(text: str) -> str:
    """The text with every known secret, each piece of one, and what has the form of one replaced by "[secret]"."""
    text = _hide(text, [way for secret in _known() for way in _ways_to_write(secret)])
    for pattern in _FORMS:
        text = pattern.sub(lambda found: "".join(group or "" for group in found.groups()) + HIDDEN, text)
    return text


@functools.lru_cache(maxsize=256)
def _ways_to_write(secret: str) -> tuple[tuple[str, int], ...]:
    """The forms in which a server may send a secret back, each with how much of it in a row gives the secret away:
    plain, in an address, in HTML, in JSON as various languages write it, in hexadecimal, and in base64, also behind
    the name of a user."""
    quoted, in_json = quote(secret, safe=""), json.dumps(secret)[1:-1]
    careful = "".join(rf"\u{ord(one):04x}" if one in "<>&'=+" else one for one in in_json)
    forms = {secret, quoted, quote(secret), quote(quoted, safe=""), in_json, in_json.replace("/", r"\/"), careful}
    forms |= {html.escape(secret), html.escape(secret, quote=False)}
    ways = dict.fromkeys(forms, PIECE)
    if len(secret) >= PIECE:
        ways[secret.encode().hex()] = 2 * PIECE
    for before in range(3):  # a byte's place decides what base64 makes of it
        coded = base64.b64encode(b" " * before + secret.encode()).decode().rstrip("=")
        middle = coded[before + 1 if before else 0 : -1 if len(coded) % 4 else None]
        ways |= dict.fromkeys((middle, middle.translate(_URL_SAFE)), PIECE)
    return tuple(sorted(ways.items()))


def holds_secret(text: str, forms: bool = True) -> bool:
    """Whether a known secret stands in a text, or, with `forms`, what has the form of one. Pieces do not count."""
    known = _known()
    written = {form for secret in known for form, _ in _ways_to_write(secret) if len(form) >= PIECE}
    return any(one in text for one in known | written) or (forms and any(one.search(text) for one in _FORMS))


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
    found = set(_remembered)
    for name, value in os.environ.items():
        value = value.strip()
        # A path or a sentence under such a name is no secret, and its pieces are ordinary words.
        if _NAMED.search(name) and re.fullmatch(r"[!-~]{12,}", value) and value[0] not in "/~.":
            found.add(value)
        elif name.upper().endswith("_CUSTOM_HEADERS"):
            found |= set(
                re.findall(r":[ \t]*(?:Bearer[ \t]+)?([!-~]{12,})[ \t]*$", value, re.MULTILINE | re.IGNORECASE)
            )
        elif name.upper().endswith("_PROXY"):
            found |= {unquote(one) for one in re.findall(r"//[^/@\s]*?:([^/\s]{6,})@", value)}
    return found


def _hide(text: str, ways: Iterable[tuple[str, int]]) -> str:
    """The text without the forms in `ways` and without their pieces of the length beside each, in capitals or
    not; a form shorter than its piece only as it is written."""
    low = text.translate(_LOWER)
    covered: set[tuple[int, int]] = set()
    for form, size in ways:
        short = len(form) < size
        searched, wanted, size = (text, form, len(form)) if short else (low, form.translate(_LOWER), size)
        for piece in {wanted[begin : begin + size] for begin in range(len(wanted) - size + 1)}:
            place = searched.find(piece)
            while place >= 0:
                covered.add((place, place + size))
                place = searched.find(piece, place + 1)
    parts: list[str] = []
    end = 0
    for begin, stop in sorted(covered):
        if begin > end or not parts:
            parts += [text[end:begin], HIDDEN]
        end = max(end, stop)
    return "".join(parts) + text[end:]

"""What must not leave this machine: secrets, paths of its disks, names of people. It is looked for in every text.

Texts are JSON, JSON lines, YAML, Markdown, the texts in tables (Parquet) and what safetensors say of themselves. What
pictures and films show or say of themselves is not looked at.
"""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gymnast_core.contents import one_line
from gymnast_core.errors import DataError
from gymnast_core.plain_json import parse_json
from gymnast_core.redaction import holds_secret

VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
"""Lists of words, in which anything may stand: only secrets and paths of this very machine are looked for in them."""
DISKS = "home|Users|root|mnt|media|tmp|var|opt|srv|scratch|work|workspace|private|Volumes|nfs|lustre|gpfs|data|storage"
PATH = re.compile(
    rf"(?<![\w./<-])(?:file://)?/(?:{DISKS})(?:/[^\s\"'`,;:()<>]+)+|(?<!\w)[A-Za-z]:\\[^\s\"']+|(?<![\w/])~/[^\s\"']+"
)
WHOLE_PATH = re.compile(r"/[^/\s]+/\S[^\n]*")
EMAIL = re.compile(r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b")
PEOPLE = frozenset(
    ("who", "operator", "labeller", "labelled_by", "author", "user", "username", "email", "experimenter")
)
"""Fields that name a person."""
SECRETS = re.compile(
    r"(?:^|_)(?:API_?KEY|ACCESS_?KEY|SECRET_?KEY|ACCESS_?TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE
)
NOBODY = frozenset(("root", "user", "ubuntu", "admin", "robot", "gymnast", "docker", "runner"))
"""Names of accounts that name no person."""
TEXTS = (".json", ".jsonl", ".md", ".txt", ".yaml", ".jinja")


def find_leaks(name: str, content: Path | bytes) -> Iterator[str]:
    """Each leak in a file, in words for people: the file, the field, what was found; secrets are not shown.

    name: of the file, as it would be sent. Raises: DataError where a file cannot be read.
    """
    try:
        for place, text in _texts(name, content):
            if found := _leak(place, text, Path(name).name in VOCABULARIES):
                yield f"{name}: {place + ': ' if place else ''}{found}"
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be looked through ({one_line(str(error))})") from error


def _texts(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """(place, text) of every text in a file."""
    if name.endswith(".parquet"):
        yield from _of_table(content)
    elif name.endswith(".safetensors"):
        yield from _of_weights(content)
    elif name.endswith(TEXTS):
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", errors="replace")
        if Path(name).name in VOCABULARIES:
            yield "", text
        elif name.endswith(".json"):
            yield from _of_json(parse_json(text))
        elif name.endswith(".jsonl"):
            for number, line in enumerate(filter(str.strip, text.splitlines()), start=1):
                yield from _of_json(parse_json(line), str(number))
        else:
            for number, line in enumerate(text.splitlines(), start=1):
                yield str(number), line


def _of_json(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a value with its place; keys stand for themselves. A text that is JSON is looked into."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield place, str(key)
            yield from _of_json(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _of_json(inner, f"{place}.{number}".lstrip("."))
    elif isinstance(value, str):
        inner = None
        if value[:1] in ("{", "["):
            try:
                inner = parse_json(value)
            except ValueError:
                inner = None
        if isinstance(inner, (dict, list)):
            yield from _of_json(inner, place)
        else:
            yield place, value


def _of_table(content: Path | bytes) -> Iterator[tuple[str, str]]:
    """Texts of a table: of its columns, each once, and of its description."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(content) if isinstance(content, bytes) else content)
    for key, value in (file.schema_arrow.metadata or {}).items():
        yield from _of_json(value.decode(errors="replace"), key.decode(errors="replace"))
    plain = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
    listed = [
        field.name
        for field in file.schema_arrow
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type)
    ]
    for batch in file.iter_batches(columns=[*plain, *listed]) if plain or listed else ():
        for column in (*plain, *listed):
            values = batch.column(column)
            for text in (values.flatten() if column in listed else values).unique().to_pylist():
                if text:
                    yield from _of_json(text, column)


def _of_weights(content: Path | bytes) -> Iterator[tuple[str, str]]:
    """What a safetensors file says of itself, in the header before the numbers."""
    if isinstance(content, bytes):
        size, head = int.from_bytes(content[:8], "little"), content[8:]
        header = head[:size]
    else:
        with open(content, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(size, 10**8))
    yield from _of_json(json.loads(header).get("__metadata__", {}))


def _leak(place: str, text: str, vocabulary: bool) -> str:
    """What one text gives away; "" where nothing."""
    key = place.rpartition(".")[2].lower()
    if holds_secret(text, forms=not vocabulary) or (SECRETS.search(key) and len(text) > 3):
        return "a secret stands there, which is not shown; remove it, and make a new one if others saw it"
    home = str(Path.home())
    if len(home) > 2 and re.search(rf"{re.escape(home)}(?![\w-])", text):
        return f"found a path of this machine ('{one_line(text, 80)}'); name it without its folders"
    if vocabulary:
        return ""
    if WHOLE_PATH.fullmatch(text) or PATH.search(text):
        return f"found a path of this machine ('{one_line(text, 80)}'); name it without its folders"
    if EMAIL.search(text):
        return f"found an e-mail address ('{one_line(text, 60)}'); remove it"
    if text.strip() and (key in PEOPLE or (text == _login() and text not in NOBODY)):
        return f"found the name of a person ('{one_line(text, 40)}'); remove it, or write a role"
    return ""


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such account
        return ""

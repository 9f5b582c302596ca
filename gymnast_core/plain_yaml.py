"""YAML that means what was written: the part of it that every reader, and every version of YAML, reads alike.

Of YAML's own conversions only null, true, false and decimal or hexadecimal numbers remain. `yes`, `off`, dates and
keys are the text that stands there. What is read as one thing by one version and as another by the next (`010`,
`1:30`, `1_000`), and what hides what a file holds (a key that stands twice, merge keys, tags, several documents), is
refused with its line. The text is taken apart event by event, so that neither depth nor aliases cost anything.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from gymnast_core.errors import DocumentError, TwiceError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 50_000
MAX_ALIASED = 20_000
"""Values and characters that aliases may stand for, all of them together."""
DIGITS = 40

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", re.ASCII)
NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII
)
DOUBTFUL = re.compile(
    r"[-+]?(0[0-9_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|(?=.*_)([0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*|0x[0-9a-fA-F_]+))|[-+]0x[0-9a-fA-F]+",
    re.ASCII,
)
"""Octal, binary, sexagesimal and grouped numbers: some readers take them for numbers, others for text."""


@dataclass
class _Open:
    """A mapping or list that is being read. keys: the line of each key. size: values and characters within. depth: of
    what is within, itself included."""

    value: dict[str, Any] | list[Any]
    where: str
    anchor: str | None
    keys: dict[str, int] = field(default_factory=dict)
    key: str | None = None
    size: int = 1
    depth: int = 1


def parse_yaml(text: str) -> Any:
    """The one document in a YAML text as dict, list, str, int, float, bool and None; keys are text.

    Raises: DocumentError, one line with the place.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"longer than {MAX_BYTES >> 10} kB")
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=LOADER):
            reader.take(event)
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {_told(error, text)}") from error
    return reader.document


def resolve(text: str, line: int = 1) -> Any:
    """What a scalar without quotes stands for. Raises: DocumentError where readers of YAML differ."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if DOUBTFUL.fullmatch(text):
        raise DocumentError(
            f"line {line}: {text[:40]} is a number to some readers of YAML, another number or text to others; write it "
            "as a decimal number, or in quotes where it is text"
        )
    if INTEGER.fullmatch(text):
        if len(text) > DIGITS:
            raise DocumentError(f"line {line}: a number of {len(text)} digits")
        return int(text, 0)
    if NUMBER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Reader:
    """Builds the document from YAML's events."""

    def __init__(self) -> None:
        self.document: Any = None
        self._begun = 0
        self._values = 0
        self._open: list[_Open] = []
        self._aliased = 0
        self._anchors: dict[str, tuple[Any, int, int]] = {}

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise DocumentError(f"line {line}: tag {tag[:40]!r}; write the value without a tag")
        if isinstance(event, yaml.DocumentStartEvent):
            self._begun += 1
            if self._begun > 1:
                raise DocumentError(f"line {line}: a second document begins; a file holds one")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._begin({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            ended = self._open.pop()
            self._put(ended.value, ended.size, ended.depth, ended.anchor, line)

    def _scalar(self, event: Any, line: int) -> None:
        if self._expects_key:
            self._key(event.value, event.implicit[0], event.anchor, line)
        else:
            value = resolve(event.value, line) if event.implicit[0] else event.value
            self._put(value, 1 + len(event.value), 0, event.anchor, line)

    def _key(self, key: str, plain: bool, anchor: str | None, line: int) -> None:
        top = self._open[-1]
        assert isinstance(top.value, dict)
        if plain and key in ("<<", "", "~"):
            raise DocumentError(
                f"line {line}: merge key '<<'; write its fields out"
                if key == "<<"
                else f"line {line}: a key is missing"
            )
        if anchor is not None:
            raise DocumentError(f"line {line}: key {key[:40]!r} has an anchor; only values may")
        if key in top.keys:
            first = top.keys[key]
            where = f"lines {first} and {line}" if first != line else f"line {line}"
            raise TwiceError(f"{top.where + key[:80]!r} stands there twice ({where})")
        top.keys[key] = line
        top.key = key
        top.size += len(key)

    def _alias(self, anchor: str, line: int) -> None:
        if self._expects_key:
            raise DocumentError(f"line {line}: alias *{anchor} is a key; write the key out")
        if anchor not in self._anchors:
            raise DocumentError(f"line {line}: alias *{anchor[:40]} stands within what it names, or before it")
        value, size, depth = self._anchors[anchor]
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise DocumentError(f"line {line}: aliases stand for more than {MAX_ALIASED} values and characters")
        self._check_depth(depth, line)
        self._put(copy.deepcopy(value), size, depth, None, line)

    def _begin(self, value: dict[str, Any] | list[Any], anchor: str | None, line: int) -> None:
        if self._expects_key:
            raise DocumentError(f"line {line}: a key is a section or a list; keys are text")
        self._check_depth(1, line)
        if anchor is not None:
            self._anchors.pop(anchor, None)
        top = self._open[-1] if self._open else None
        where = f"{top.where}{top.key if top.key is not None else len(top.value)}." if top else ""
        self._open.append(_Open(value, where, anchor))

    def _put(self, value: Any, size: int, depth: int, anchor: str | None, line: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise DocumentError(f"line {line}: more than {MAX_VALUES} values")
        if anchor is not None:
            self._anchors[anchor] = (value, size, depth)
        if not self._open:
            self.document = value
            return
        top = self._open[-1]
        top.size += size
        top.depth = max(top.depth, depth + 1)
        if isinstance(top.value, dict):
            assert top.key is not None
            top.value[top.key], top.key = value, None
        else:
            top.value.append(value)

    def _check_depth(self, depth: int, line: int) -> None:
        if len(self._open) + depth > MAX_DEPTH:
            raise DocumentError(f"line {line}: nested more than {MAX_DEPTH} deep")

    @property
    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None


def _told(error: yaml.YAMLError, text: str) -> str:
    """PyYAML's error as one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.encode()[: error.position].count(b"\n") + 1  # the position is in bytes
        return f"line {line}: a control character; remove it"
    if mark is None or problem is None:
        return " ".join(str(error).split())
    lines = text.splitlines()
    here = lines[mark.line] if mark.line < len(lines) else ""
    hint = "; indent with spaces, not tabs" if "\t" in here[: mark.column + 1] else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"


RARE_BREAKS = "\x85\u2028\u2029"
"""Line breaks of YAML that are read back as a space or a newline."""


class PlainDumper(yaml.SafeDumper):
    """Writes what `parse_yaml` reads back: no aliases, and text in quotes where it would be read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        try:
            same = resolve(data) == data and data != "<<"
        except DocumentError:
            same = False
        style = None if same else "'"
        if any(mark in data for mark in RARE_BREAKS):  # only double quotes escape them
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


PlainDumper.add_representer(str, PlainDumper.represent_text)

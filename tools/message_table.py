"""The project's ROS messages, services and actions as a page: each field with the comment that stands beside it."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "ros2_ws" / "src" / "gymnast_msgs"
PARTS = {"msg": ("",), "srv": ("Request", "Response"), "action": ("Goal", "Result", "Feedback")}
TITLES = {"msg": "Messages", "srv": "Services", "action": "Actions"}
FIELD = re.compile(r"(?P<type>\S+)\s+(?P<name>[A-Za-z]\w*)\s*(?:=\s*(?P<value>[^#]*?))?\s*(?:#\s*(?P<text>.*))?")
HEAD = """\
# Fields of messages, services and actions

[ROS interfaces](interfaces.md) says which node has which of them. Lengths are metres, angles radians, times seconds,
unless a field says otherwise. This page is made from `ros2_ws/src/gymnast_msgs` by `python -m tools.write_reference`.
"""


def messages_page() -> str:
    """The page. Raises: ValueError naming file and line of what is no field."""
    lines = [HEAD.rstrip()]
    for kind in ("action", "srv", "msg"):
        lines += ["", f"## {TITLES[kind]}"]
        for path in sorted((FOLDER / kind).glob(f"*.{kind}")):
            lines += ["", f"### {path.stem}", *_described(path, PARTS[kind])]
    return "\n".join(lines) + "\n"


def _described(path: Path, parts: tuple[str, ...]) -> list[str]:
    text = path.read_text(encoding="utf-8")
    head = " ".join(re.findall(r"^#\s*(.*)$", text.partition("---")[0], re.MULTILINE))
    lines = ["", head] if head else []
    for part, block in zip(parts, re.split(r"^---$", text, flags=re.MULTILINE), strict=True):
        rows = _fields(path, block)
        lines += ["", f"**{part}**{'' if rows else ': nothing'}"] if part else []
        lines += ["", "| field | type | meaning |", "|---|---|---|", *rows] if rows else []
    return lines


def _fields(path: Path, block: str) -> list[str]:
    """A row of the table for each field and constant; lines that begin with a space go on with the comment above."""
    found: list[list[str]] = []
    for line in block.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.lstrip().startswith("#"):
            found[-1][2] += f" {line.strip().lstrip('#').strip()}"
            continue
        field = FIELD.fullmatch(line.rstrip())
        if field is None:
            raise ValueError(f"{path}: {line!r} is no field")
        value = f" = {field['value']}" if field["value"] else ""
        found.append([f"`{field['name']}`{value}", f"`{field['type']}`", (field["text"] or "").replace("<", "&lt;")])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in found]

"""Message definitions as text, with their dependencies, as rosbag2 stores them in MCAP schemas ("ros2msg")."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from gymnast_core.errors import ConfigError

SEPARATOR = "=" * 80
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
PRIMITIVES = frozenset({"bool", "byte", "char", "float32", "float64", "string", "wstring", *_INTEGERS})
_FIELD = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[A-Za-z_]")


@cache
def message_definition(type_name: str) -> str:
    """Text of "package/msg/Name" and, below it, of every type it uses.

    Raises: ConfigError when the ROS environment has no such message.
    """
    parts: list[str] = []
    seen = [type_name]
    for name in seen:  # grows while types are found
        text = _read(name)
        package, _, short = name.split("/")
        parts.append(text if not parts else f"{SEPARATOR}\nMSG: {package}/{short}\n{text}")
        for line in text.splitlines():
            match = _FIELD.match(line.split("#", 1)[0])
            if match is None or match[1] in PRIMITIVES:
                continue
            used = match[1].split("/")
            full = f"{used[0] if len(used) > 1 else package}/msg/{used[-1]}"
            if full not in seen:
                seen.append(full)
    return "\n".join(parts)


def _read(type_name: str) -> str:
    package, _, name = type_name.split("/")
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix, "share", package, "msg", f"{name}.msg")
        if prefix and path.is_file():
            return path.read_text(encoding="utf-8")
    raise ConfigError(f"message {type_name}: no {package}/msg/{name}.msg in AMENT_PREFIX_PATH; source your ROS setup")

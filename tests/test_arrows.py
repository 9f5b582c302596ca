"""Arrows between the parts of the core point one way, and the core knows no ROS (docs/design_notes.md)."""

from __future__ import annotations

import ast
from pathlib import Path

CORE = Path(__file__).resolve().parent.parent / "gymnast_core"
LEVELS = [
    {"data"},
    {"robot", "reporting", "compositing"},
    {"policy", "world_model", "reward", "simulation"},
    {"rollout"},
    {"rl", "evaluation"},
    {"workflows", "serve", "hub"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# Modules of the root that every part may use, and that use no part but data.
BASE = {
    "addresses",
    "clocks",
    "commands",
    "plain_json",
    "plain_yaml",
    "units",
    "config",
    "contents",
    "correlations",
    "device",
    "errors",
    "estimates",
    "files",
    "graph",
    "hub_files",
    "hub_names",
    "hub_session",
    "locks",
    "progress",
    "protocols",
    "ranks",
    "redaction",
    "results",
    "ros_client",
    "ros_logs",
    "run_folder",
    "seeds",
    "sequential_test",
    "station_file",
    "status",
    "tensor_files",
    "verb_process",
    "version",
}
ROS = ("rclpy", "gymnast_nodes", "gymnast_msgs", "sensor_msgs", "std_msgs", "interbotix_xs_msgs", "launch")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def violations(path: Path) -> list[str]:
    parts = path.relative_to(CORE).parts
    own = parts[0] if len(parts) > 1 else ""
    names = imports(path)
    used = {name.split(".")[1] for name in names if name.startswith("gymnast_core.")}
    found = [f"imports {name}" for name in names if name.split(".")[0] in ROS]
    if own:
        found += [f"imports {part}" for part in used & set(LEVEL) if part != own and LEVEL[part] >= LEVEL[own]]
        found += [f"imports {part}" for part in used - set(LEVEL) - BASE]
    elif path.stem in BASE:
        found += [f"imports {part}" for part in used & set(LEVEL) - {"data"}]
    return [f"{path.relative_to(CORE)} {what}" for what in found]


def test_imports_point_down() -> None:
    parts = {path.name for path in CORE.iterdir() if (path / "__init__.py").exists()}
    assert parts <= set(LEVEL), f"folders without a level: {parts - set(LEVEL)}"
    assert [line for path in sorted(CORE.rglob("*.py")) for line in violations(path)] == []

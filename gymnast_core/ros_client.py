"""A verb that goes on as a client of the ROS graph, in the place of its own process."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from gymnast_core.errors import ConfigError


def has_ros() -> bool:
    """Whether this Python finds ROS 2 and gymnast's nodes."""
    return all(importlib.util.find_spec(module) for module in ("rclpy", "gymnast_msgs", "gymnast_nodes"))


def become_ros_client(name: str, words: Mapping[str, Any]) -> NoReturn:
    """Replace this process by `python -m gymnast_nodes.NAME WORDS`, the words as JSON.

    Raises: ConfigError where there is no ROS 2.
    """
    if not has_ros():
        raise ConfigError("no ROS 2 in this shell; run `make setup` and `source tools/env.sh` first")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"gymnast_nodes.{name}", json.dumps(words)])

"""Where ROS keeps its logs. It refuses to start where it cannot make that folder, for instance without a home."""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from gymnast_core.errors import ConfigError


def settle_log_folder(environment: MutableMapping[str, str] = os.environ) -> str:
    """Let ROS log into a temporary folder where its own cannot be written.

    Returns one line that says so, empty where nothing was changed. Raises: ConfigError where there is no temporary
    folder either.
    """
    folder, problem = _chosen(environment), "no home folder is known"
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return ""
        except OSError as error:
            problem = f"{folder}: {error.strerror or error}"
    try:
        environment["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="gymnast_ros_log_")
    except OSError as error:
        raise ConfigError(
            f"ROS_LOG_DIR: {problem}, and no temporary folder for ROS's logs: {error.strerror}"
        ) from error
    kept = environment["ROS_LOG_DIR"]
    return f"ROS cannot keep its logs ({problem}); they go to {kept}; ROS_LOG_DIR names another folder"


def _chosen(environment: MutableMapping[str, str]) -> Path | None:
    """The folder that ROS would take (rcl_logging); None where it finds none."""
    if folder := environment.get("ROS_LOG_DIR", ""):
        return Path(environment.get("HOME", "") + folder[1:]) if folder.startswith("~") else Path(folder)
    if folder := environment.get("ROS_HOME", ""):
        return Path(environment.get("HOME", "") + folder[1:] if folder.startswith("~") else folder) / "log"
    home = environment.get("HOME", "")
    return Path(home) / ".ros" / "log" if home else None

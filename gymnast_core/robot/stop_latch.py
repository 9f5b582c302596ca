"""The emergency stop as a file: it is latched while the file is there, whoever is dead, until the arm is re-armed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from pathlib import Path

from gymnast_core.config import ArmConfig, StationConfig
from gymnast_core.errors import DataError
from gymnast_core.files import sync_folder, write_bytes, write_json
from gymnast_core.robot.ros_domain import ros_domain

KNOWN = ".known"
"""Beside a stop's file: its arm ran on this machine."""


def state_folder() -> Path:
    """Where a machine keeps what outlives every process: $GYMNAST_STATE, else $XDG_STATE_HOME/gymnast, else
    ~/.local/state/gymnast; the same from whatever folder a graph is started."""
    if chosen := os.environ.get("GYMNAST_STATE"):
        return Path(chosen).expanduser().absolute()
    states = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(states).expanduser().absolute() / "gymnast"


def stop_file(station: StationConfig) -> Path:
    """The stop's file of a station's arm: one for each driver and ROS domain; a simulated arm has its own."""
    return _path(station.arm.driver_name, station.simulation is not None)


def _path(driver: str, simulated: bool) -> Path:
    name = re.sub(r"\W+", "_", driver.strip("/"))
    kind = "simulated" if simulated else "arm"
    return state_folder() / "stop" / f"{kind}-{name}-domain{ros_domain()}.json"


def known_stop_files() -> list[Path]:
    """The stop's files of every arm that ever ran on this machine in this ROS domain; empty where none did."""
    known = (state_folder() / "stop").glob(f"*-domain{ros_domain()}{KNOWN}")
    return sorted(path.with_suffix(".json") for path in known)


def usual_stop_files() -> list[Path]:
    """Those of an arm whose driver has the usual name, real and simulated."""
    driver = ArmConfig().driver_name
    return [_path(driver, simulated=False), _path(driver, simulated=True)]


class StopLatch:
    """Latched while its file is there, readable or not. Safe from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    @property
    def is_set(self) -> bool:
        """Whether the arm is to stay where it is; also where that cannot be found out."""
        try:
            os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    @property
    def reason(self) -> str:
        """Why it is latched, for people; empty when it is not."""
        if not self.is_set:
            return ""
        try:
            reason = json.loads(self.path.read_text(encoding="utf-8"))["reason"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return f"{self.path} is there, but not readable"
        return (str(reason) or "emergency stop")[:500]

    def register(self) -> None:
        """The arm runs on this machine: a stop of everything is to find it. Where no disk takes that, none does."""
        with contextlib.suppress(DataError):
            write_bytes(self.path.with_suffix(KNOWN), b"")

    def mark(self) -> tuple[int, int] | None:
        """Tells one stop from the next: changes with every `set`; None where there is none to look at."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def set(self, reason: str) -> None:
        """Latch it, on the disk once this has returned. Raises: DataError when it cannot be written."""
        content = {"reason": reason, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        with self._lock:
            write_json(self.path, content, indent=None)

    def clear(self) -> None:
        """Release it. Raises: DataError when the file stays."""
        with self._lock:
            try:
                self.path.unlink(missing_ok=True)
                if self.path.parent.is_dir():
                    sync_folder(self.path.parent)
            except NotADirectoryError:
                return
            except OSError as error:
                raise DataError(f"{self.path}: cannot release the stop: {error.strerror or error}") from error

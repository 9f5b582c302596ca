"""Where LeRobot is: an environment of its own, since it wants older versions of libraries than gymnast."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from tests.machine import HANG_S

NAMED, BUILD = "GYMNAST_LEROBOT_PYTHON", "GYMNAST_BUILD_LEROBOT"
TOOL = Path(__file__).resolve().parents[1] / "tools" / "lerobot_environment.sh"
MISSING = f"{NAMED} names no Python with lerobot; {BUILD}=1 builds one (3 GB)"


def lerobot_is_there() -> bool:
    """Whether tests with LeRobot can run: it is named, or may be built."""
    return bool(os.environ.get(NAMED) or os.environ.get(BUILD))


@cache
def lerobot_python() -> str:
    """Its Python; built by the first call where no other is named."""
    if named := os.environ.get(NAMED):
        return named
    done = subprocess.run([str(TOOL)], capture_output=True, text=True, timeout=6 * HANG_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()

"""Which gymnast this is: the version and, in a git checkout, the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gymnast_core import __version__

ROOT = Path(__file__).resolve().parent.parent


def describe_version(root: Path = ROOT) -> str:
    """ "0.1.0", or "0.1.0 (commit 1a2b3c4d5e6f)" in a checkout, with ", changed since" where tracked files differ.

    root: the folder that holds the package. A package in somebody else's repository, as a virtual environment may be,
    does not take that repository's commit for its own.
    """
    if not (root / ".git").exists():
        return __version__
    try:
        line = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        found = subprocess.run(line, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git here, or it refuses the folder of another owner
        return __version__
    commit, _, dirty = found.partition("-")
    return f"{__version__} (commit {commit}{', changed since' if dirty else ''})"

"""`gymnast doctor --fix`: run the remedies that need no person, and no rights beyond the user's own where possible."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gymnast_core.progress import say

ROOT = Path(__file__).resolve().parent.parent
Command = tuple[str, ...]
MAKE_SETUP: Command = ("make", "setup")
"""Makes everything: system packages (it asks for sudo where some are missing), .venv, ROS 2, interfaces."""


def install(extra: str) -> Command:
    """The command that installs an extra of this checkout, such as "full"; empty where the package is no checkout."""
    return (sys.executable, "-m", "pip", "install", "-e", f"{ROOT}[{extra}]") if in_checkout() else ()


def in_checkout() -> bool:
    """Whether this package lies in the repository, from which alone things can be installed."""
    return (ROOT / "setup.py").is_file() and (ROOT / "Makefile").is_file()


def plan(fixes: Sequence[Command]) -> list[Command]:
    """The commands to run, each once; `make setup` alone where it is among them, since it does what the others do."""
    wanted = list(dict.fromkeys(fix for fix in fixes if fix))
    return [MAKE_SETUP] if MAKE_SETUP in wanted else wanted


def run_fixes(fixes: Sequence[Command]) -> bool:
    """Run the commands in the repository, and say what is run and what failed; whether any was run."""
    commands = plan(fixes)
    for command in commands:
        line = shlex.join(command)
        say(f"running: {line}", "bold")
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode
        except OSError as error:
            say(f"warning: {line}: {error.strerror or error}", "yellow")
            continue
        if code:
            say(f"warning: {line}: ended with exit code {code}", "yellow")
    if not commands:
        say("nothing that is missing can be installed by a command; follow the remedies above")
    return bool(commands)

"""A verb of `gymnast` in a process of its own, which does not outlive the one that started it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from gymnast_core.progress import die_with_parent


def start_verb(
    verb: str,
    options: Path,
    log: BinaryIO,
    niceness: int = 0,
    death: signal.Signals = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `gymnast VERB --from OPTIONS` in a session of its own: Ctrl-C reaches it through this process alone.

    log: takes all that it says. niceness: added to this process's. death: the signal that it gets when this process
    dies. environment: instead of this process's.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "gymnast_core.cli", *verb.split(), "--from", str(options)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=functools.partial(_settle, niceness, death),
    )


def last_words(log: Path) -> str:
    """What a verb said last: its error, as a rule."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error:").strip()[:400]


def how_it_ended(code: int) -> str:
    """A process's exit code in words."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _settle(niceness: int, death: signal.Signals) -> None:
    """In the child, before the verb starts; little is allowed between fork and exec."""
    os.nice(niceness)
    die_with_parent(death)

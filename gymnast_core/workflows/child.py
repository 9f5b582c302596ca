"""A verb in a process of its own: its memory is given back, and its seeds are those of a fresh start."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gymnast_core.config import dump_config
from gymnast_core.errors import DataError
from gymnast_core.files import read_json_lines, write_bytes, write_json
from gymnast_core.locks import wait_for_folder
from gymnast_core.results import RESULT, read_result
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.verb_process import how_it_ended, last_words, start_verb

POLL_S = 0.2
GRACE_S = 60.0
"""How long an interrupted practice may take to end, and how long the process of a killed parent is waited for."""
LOG = "log.txt"
FINISHED = "finished.json"


def adapt_apart(config: AdaptConfig, tick: Callable[[str], None]) -> AdaptResult:
    """Run or resume one practice, to its end; a finished one is read. Returns and raises as `run_apart` does."""
    run_apart("adapt", config, tick, ends=(0, 1), mark=RESULT)
    return read_result(AdaptResult, config.run)


def run_apart(
    verb: str,
    config: Any,
    tick: Callable[[str], None],
    ends: Sequence[int] = (0,),
    mark: str = FINISHED,
    run: Path | None = None,
) -> None:
    """Run or resume a verb, to its end; where it came to its end before, nothing is done.

    verb: one that can be resumed. config: its options. tick: called several times a second with what is being done, in
    words; when it raises, the verb is interrupted, keeps its last checkpoint, and the exception goes on. ends: exit
    codes that are an end. mark: the file in the run folder by which an end is known, which is written where the verb
    does not write it itself. run: the folder, where the verb has no option `run`.

    Raises: DataError when the verb ends with an error, with its last words.
    """
    run = run or Path(config.run)
    if (run / mark).exists():
        return
    run.mkdir(parents=True, exist_ok=True)
    options = run.with_name(f"{run.name}.yaml")
    write_bytes(options, dump_config(config).encode())
    wait_for_folder(run, GRACE_S, lambda: tick("waiting for an earlier process"))
    with open(run / LOG, "ab") as log:
        process = start_verb(verb, options, log)
    try:
        while process.poll() is None:
            tick(_doing(verb, run))
            time.sleep(POLL_S)
    finally:
        _end(process)
    if process.returncode not in ends or (mark == RESULT and not (run / RESULT).exists()):
        raise DataError(f"{run}: `gymnast {verb}` ended {how_it_ended(process.returncode)}: {last_words(run / LOG)}")
    if not (run / mark).exists():
        write_json(run / mark, {"verb": verb, "exit_code": process.returncode})


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process that still runs, and wait for it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _doing(verb: str, run: Path) -> str:
    """What a verb is at, by what it has logged."""
    lines: list[dict[str, Any]] = read_json_lines(run / "progress.jsonl")
    if lines:
        phase, iteration, wanted = (lines[-1].get(name, "") for name in ("phase", "iteration", "iterations"))
        return f"practising, update {iteration} of {wanted}" if phase == "train" else f"practising, {phase}"
    lines = read_json_lines(run / "metrics.jsonl")
    return f"{verb}, step {lines[-1].get('step', '')}" if lines else verb

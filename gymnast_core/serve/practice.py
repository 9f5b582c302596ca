"""Test-time practice that a client asks for: `gymnast adapt` in a process of its own, from the client's pictures.

The server goes on answering meanwhile: nothing of practice runs in its process, and the other one has a low priority.
One practice at a time; it ends with the server.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.config import dump_config, parse_config
from gymnast_core.data.frames import write_image
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import read_json_lines, user_path, write_bytes
from gymnast_core.policy.practice_wire import PracticeNow, PractiseRequest
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.progress import say
from gymnast_core.results import RESULT, read_result
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.serve.refusal import Refusal
from gymnast_core.station_file import StationFile
from gymnast_core.verb_process import how_it_ended, last_words, start_verb

LOG = "log.txt"
NICENESS = 10
MARGIN_S = 1200.0
"""Loading and the measurements before and after may take this long besides three times the training budget."""
GRACE_S = 5.0
"""How long the end of the server waits for that of a practice."""


class Practice:
    """One process of `gymnast adapt` in the folder `run`.

    limit_s: after which it is ended. grace_s: between the request that it end and its kill, so that a practice that
    hangs blocks nobody else's for longer.
    """

    def __init__(self, run: Path, options: Path, limit_s: float, grace_s: float) -> None:
        self._run, self._end_at, self._grace_s = run, time.monotonic() + limit_s, grace_s
        self._told = ""
        self._asked_at = 0.0
        """When it was asked to end."""
        self._killed = False
        threads = str(max(1, (os.cpu_count() or 2) - 1))  # one core is left to the policy
        environment = {"OMP_NUM_THREADS": threads, **os.environ, "COLUMNS": "160"}
        with open(run / LOG, "ab") as log:
            self._process: subprocess.Popen[bytes] = start_verb(
                "adapt", options, log, NICENESS, signal.SIGKILL, environment
            )

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    def tend(self) -> None:
        """End it once its time is up, and kill it where it does not end by itself; called now and then."""
        if not self.runs:
            return
        now = time.monotonic()
        if now > self._end_at:
            self.cancel("it took too long")
        if self._told and not self._killed and now - self._asked_at > self._grace_s:
            self._killed = True
            self._told += f"; it did not end within {self._grace_s:g} s and was killed"
            say(f"practice in {self._run}: {self._told}", "yellow")
            self._process.kill()

    def cancel(self, why: str) -> None:
        """Ask it to end."""
        if self.runs and not self._told:
            self._told, self._asked_at = why, time.monotonic()
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, at once where it does not do so by itself."""
        self.cancel("the server ended")
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def now(self) -> PracticeNow:
        """How it stands, by what it has written."""
        if self.runs:
            last = (read_json_lines(self._run / "progress.jsonl") or [{}])[-1]
            left = last.get("seconds_left")
            return PracticeNow(
                "running",
                str(last.get("phase") or "load"),
                int(last.get("iteration") or 0),
                int(last.get("iterations") or 0),
                float(left) if isinstance(left, (int, float)) else None,
                message=self._told,
            )
        code = self._process.returncode
        if self._told:
            return PracticeNow("cancelled", message=self._told)
        if code not in (0, 1) or not (self._run / RESULT).exists():
            return PracticeNow("failed", message=f"ended {how_it_ended(code)}: {last_words(self._run / LOG)}")
        try:
            found = read_result(AdaptResult, self._run)
        except DataError as error:
            return PracticeNow("failed", message=str(error))
        return PracticeNow(
            "accepted" if found.accepted else "refused",
            iteration=found.iterations,
            adapter=found.adapter_id,
            success_before=found.success_before,
            success_after=found.success_after,
            message=found.message,
        )


class Practices:
    """The practices of one server. policy: a checkpoint folder, "" for the station's. own_adapter: the one that acts
    where a client names none. adapters: folder of the stored ones. root: folder of the runs. grace_s: of `Practice`."""

    def __init__(
        self, station: StationFile, policy: str, own_adapter: str, adapters: str, root: str, grace_s: float
    ) -> None:
        self._station, self._policy, self._grace_s = station, policy, grace_s
        self.own_adapter, self.adapters = own_adapter, adapters
        self._root = user_path(root, "--practice-runs").resolve()
        self._last: Practice | None = None
        self._begins = False

    @property
    def side(self) -> int:
        """Pictures are kept at this size: practice sees no more of them."""
        return self._station.config.camera.observation_size

    async def begin(self, content: dict[str, Any], frames: Sequence[np.ndarray]) -> Practice:
        """Start a practice from captured frames, in the event loop's thread: a process dies with the thread that
        started it. Raises: Refusal 400 (the request), 409 (another one is under way), 500 (nothing can be written)."""
        try:
            asked = parse_config(PractiseRequest, content, "practise")
            normalise_instruction(asked.instruction)
        except (ConfigError, DataError) as error:
            raise Refusal(400, str(error)) from error
        budget = self._station.config.adaptation.seconds
        if asked.seconds is not None and asked.seconds > budget:
            raise Refusal(400, f"practise: seconds: found {asked.seconds:g}, allowed are up to {budget:g}")
        if not frames:
            raise Refusal(400, 'practise: found no picture; send "capture": true with the picture to practise from')
        if self._begins or (self._last is not None and self._last.runs):
            raise Refusal(409, "another practice is under way; wait for its end", {"Retry-After": "60"})
        self._begins = True
        try:
            run = await asyncio.to_thread(self._write, asked, frames)
            limit = 3.0 * (asked.seconds or budget) + MARGIN_S
            self._last = Practice(run, run / "request.yaml", limit, self._grace_s)
        finally:
            self._begins = False
        return self._last

    def tend(self) -> None:
        """Called now and then."""
        if self._last is not None:
            self._last.tend()

    def close(self) -> None:
        """End what is under way."""
        if self._last is not None:
            self._last.kill()

    def _write(self, asked: PractiseRequest, frames: Sequence[np.ndarray]) -> Path:
        """The run folder with pictures and options. Raises: Refusal 500 where nothing can be written."""
        name = re.sub(r"[^a-z0-9]+", "_", asked.instruction.lower()).strip("_")[:40]
        run = self._root / f"{datetime.now():%Y%m%d_%H%M%S_%f}_{name}"
        paths = [run / f"frame_{number:02d}.png" for number in range(len(frames))]
        config = AdaptConfig(
            frame=tuple(map(str, paths)),
            config=str(self._station.path),
            run=str(run),
            policy=self._policy,
            adapters=self.adapters,
            device=self._station.config.models.device,
            **asdict(asked),
        )
        try:
            run.mkdir(parents=True)
            for path, frame in zip(paths, frames):
                write_image(path, frame)
            write_bytes(run / "request.yaml", dump_config(config).encode())
        except (OSError, DataError) as error:
            raise Refusal(500, f"the practice cannot be written: {error}") from error
        return run

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
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gymnast_core.config import Coordinate, Positive, Seed, dump_config, parse_config
from gymnast_core.data.frames import write_image
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import read_json_lines, user_path, write_bytes
from gymnast_core.policy.prompt import normalise_instruction
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


@dataclass(frozen=True)
class PractiseRequest:
    """What a client may say of a practice. None: as the station file says."""

    instruction: Annotated[str, Field(min_length=1, max_length=500)]
    iterations: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """At most this many updates."""
    seconds: Positive | None = None
    """Training takes at most this long; no longer than the station file says."""
    position: tuple[Coordinate, Coordinate, Coordinate] | None = None
    """Where the end effector is in the captured pictures: x y z, metres, base frame."""
    seed: Seed = 0


@dataclass(frozen=True)
class PracticeNow:
    """How a practice stands. state: "running", "accepted" (by the gate: act with `adapter`), "refused" (the base is
    kept), "failed" or "cancelled". success_before, success_after: in imagination, 0 to 1."""

    state: str
    phase: str = ""
    iteration: int = 0
    iterations: int = 0
    seconds_left: float | None = None
    adapter: str = ""
    success_before: float | None = None
    success_after: float | None = None
    message: str = ""


class Practice:
    """One process of `gymnast adapt` in the folder `run`. limit_s: after which it is ended."""

    def __init__(self, run: Path, options: Path, limit_s: float) -> None:
        self._run, self._end_at = run, time.monotonic() + limit_s
        self._told = ""
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
        """End it once its time is up; called now and then."""
        if self.runs and time.monotonic() > self._end_at:
            self.cancel("it took too long")

    def cancel(self, why: str) -> None:
        """Ask it to end."""
        if self.runs and not self._told:
            self._told = why
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
    where a client names none. adapters: folder of the stored ones. root: folder of the runs."""

    def __init__(self, station: StationFile, policy: str, own_adapter: str, adapters: str, root: str) -> None:
        self._station, self._policy = station, policy
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
            self._last = Practice(run, run / "request.yaml", 3.0 * (asked.seconds or budget) + MARGIN_S)
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

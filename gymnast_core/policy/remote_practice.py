"""Practice on a policy server (`gymnast serve --practise`), for the clients of both wires.

practice = policy.practise(frame, "open the drawer", seconds=120)
for now in practice.progress():
    print(now.phase, now.iteration, now.seconds_left)
policy.use_adapter(practice.adapter())
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from gymnast_core.config import parse_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.policy.images import check_batch
from gymnast_core.policy.names import ADAPTER
from gymnast_core.policy.practice_wire import MOST_PICTURES, PracticeNow, PractiseRequest, read_practice

Deed = Literal["practise", "progress", "cancel"]
Ask = Callable[[Deed, Mapping[str, Any]], Mapping[Any, Any]]


class RemotePractice:
    """A practice that a policy server runs for this client. Every method raises DataError, one line, where the server
    does not answer, or answers something else."""

    def __init__(self, ask: Ask, where: str, content: Mapping[str, Any]) -> None:
        self._ask, self._where = ask, where
        self._last = read_practice(ask("practise", content), where)

    def now(self) -> PracticeNow:
        """How it stands."""
        if self._last.state == "running":
            self._last = read_practice(self._ask("progress", {}), self._where)
        return self._last

    def progress(self, every_s: float = 1.0) -> Iterator[PracticeNow]:
        """How it stands, again and again until it has ended; its end comes last. every_s: seconds between questions."""
        while (now := self.now()).state == "running":
            yield now
            time.sleep(every_s)
        yield now

    def adapter(self, every_s: float = 1.0) -> str:
        """Wait for its end: the adapter that the gate accepted, "" where the gate kept the base.

        Raises: DataError also for a practice that failed or was cancelled.
        """
        *_, end = self.progress(every_s)
        if end.state in ("accepted", "refused"):
            return end.adapter if end.state == "accepted" else ""
        raise DataError(f"{self._where}: the practice was {end.state}: {end.message or 'the server gave no reason'}")

    def cancel(self) -> PracticeNow:
        """Ask the server to end it; `progress` tells when it has."""
        if self._last.state == "running":
            self._last = read_practice(self._ask("cancel", {}), self._where)
        return self._last


class PractisingClient(abc.ABC):
    """What both wires' clients share: practice on the server, and acting by its adapters.

    address: of the server.
    """

    address: str
    _adapter = ""

    def practise(
        self,
        frames: np.ndarray,
        instruction: str,
        iterations: int | None = None,
        seconds: float | None = None,
        position: tuple[float, float, float] | None = None,
        seed: int = 0,
    ) -> RemotePractice:
        """Let the server practise an instruction from one frame (H, W, 3) uint8, or several (N, H, W, 3), N at most 16.

        iterations, seconds: limits of the training; None: as the server's station file says. position: of the end
        effector in the frames, metres, base frame, where it is known.

        Raises: DataError where the frames are none, the server lets nobody practise, or another practice is under way;
            ConfigError for a limit that there cannot be.
        """
        asked = PractiseRequest(instruction, iterations, seconds, position, seed)
        content = {name: value for name, value in dataclasses.asdict(asked).items() if value is not None}
        parse_config(PractiseRequest, content, "practise")
        batch = frames if frames.ndim == 4 else frames[None]
        if not 1 <= len(batch) <= MOST_PICTURES:
            raise DataError(f"practise: found {len(batch)} frames, needed 1 to {MOST_PICTURES}")
        kept = list(zip(*check_batch(batch, [instruction] * len(batch))))
        self._check_practises()
        for frame, text in kept:
            self._capture(frame, text)
        return RemotePractice(self._do, self.address, content)

    def use_adapter(self, name: str) -> None:
        """Let an adapter of the server act from the next action on; "": the server's own policy.

        Raises: ConfigError for what is no name, DataError where the server knows no adapters.
        """
        if name and not ADAPTER.fullmatch(name):
            raise ConfigError(f"adapter: found {name[:60]!r}, which is no adapter's name")
        if name:
            self._check_practises()
        self._adapter = name

    @abc.abstractmethod
    def _check_practises(self) -> None:
        """Raises: DataError where the server lets no client practise."""

    @abc.abstractmethod
    def _capture(self, frame: np.ndarray, instruction: str) -> None:
        """Have the server keep a frame to practise from. Raises: DataError."""

    @abc.abstractmethod
    def _do(self, what: Deed, content: Mapping[str, Any]) -> Mapping[Any, Any]:
        """The server's answer. Raises: DataError."""

    def _no_practice(self, found: str) -> DataError:
        return DataError(
            f"{self.address}: this server lets no client practise ({found}); needed `gymnast serve --practise`"
        )

"""Keeps the best adapter of a test-time training, because more updates are not always better ones.

The reward of training rollouts is that of a sampling policy; the arm acts greedily, and with one start frame the greedy
policy can get worse while the sampled reward still rises. So after every update some rollouts are drawn the way the
executor will act, on seeds that neither training nor the gate uses, and the best weights so far stay on disk. The gate
then judges them on fresh seeds, so that having chosen among several makes it no easier.

The greedy policy soon succeeds always from that one frame, while the sampled one goes on learning, and with it what the
greedy one does from other frames: of updates that leave nothing to fail at, the latest is taken, and practice goes on
for a while (docs/mini_models.md has the figures).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file

from gymnast_core.errors import CheckpointError
from gymnast_core.files import remove, write_json
from gymnast_core.plain_json import parse_json
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.tensor_files import open_tensors

WEIGHTS = "best.safetensors"
RECORD = "best.json"
SOLVED = 0.95
"""Validation success from which there is nothing left to fail at from this start; more than that is chance ..."""
SMALL_FALL = 0.05
"""A fall of other tasks up to this is chance."""
SOLVED_FOR = 10
"""... and practice ends when this many validations in a row reach it within the safety envelope."""


@dataclass(frozen=True)
class Validation:
    """Success in imagination, 0 to 1 (NaN when the judge abstained), and the share of actions that the safety envelope
    changed, of the policy as it was after `update` updates. fall: by how much success at other tasks is below the
    base's, 0 where it is not, or where nothing is known of them."""

    update: int
    success: float
    safety: float
    fall: float = 0.0

    @property
    def worth(self) -> float:
        """Success, up to what is more than chance, less what it costs other tasks."""
        return min(self.success, SOLVED) - self.fall if np.isfinite(self.success) else -1.0

    def rank(self, base_safety: float) -> tuple[bool, float, float]:
        """Larger is better: first not to meet the safety envelope more often than the base, then worth, then the
        later (of those that do meet it more often, the one that does so least)."""
        safe = self.safety <= base_safety
        return (safe, self.worth, self.update if safe else -self.safety)

    def is_solved(self, base_safety: float) -> bool:
        """Whether it leaves nothing to learn."""
        return self.success >= SOLVED and self.fall <= SMALL_FALL and self.safety <= base_safety


class BestAdapter:
    """Call it after every update; `restore` puts the best weights back.

    measure: success, safety share and fall of other tasks (see `Validation`) of the policy as it is now, with the same
    seeds every time, and the same answer in every process. base_safety: the base policy's share. Both files lie in the
    run folder, so that a run cut short and resumed knows its best; the record of validations is cut to the updates the
    trainer resumed from.
    """

    def __init__(
        self, trainer: GRPOTrainer, measure: Callable[[], tuple[float, float, float]], base_safety: float = 1.0
    ) -> None:
        self.trainer = trainer
        self.measure = measure
        self.base_safety = base_safety
        self._record = trainer.run.path / RECORD
        self._weights = trainer.run.path / WEIGHTS
        ranks = trainer.processes
        recorded = self._resume() if ranks.first and self._record.exists() else []
        self.history = ranks.gather(recorded)[0]
        if trainer.update and (not self.history or self.history[-1].update < trainer.update):
            self()  # the run was cut short between an update and its validation

    @property
    def best(self) -> Validation | None:
        """The best validation so far, see `Validation.rank`."""
        return max(self.history, key=lambda one: one.rank(self.base_safety), default=None)

    @property
    def solved(self) -> bool:
        """Whether the last validations leave nothing to learn."""
        last = self.history[-SOLVED_FOR:]
        return len(last) == SOLVED_FOR and all(one.is_solved(self.base_safety) for one in last)

    def __call__(self) -> Validation:
        """Validate the policy as it is, and keep its weights when it is the best so far."""
        began = time.monotonic()
        success, safety, fall = self.measure()
        one = Validation(self.trainer.update, success, safety, fall)
        self.history.append(one)
        if self.best is one:
            self._save()  # before the record, which speaks of it
        if self.trainer.processes.first:
            seconds = time.monotonic() - began
            self.trainer.run.log(
                one.update,
                {
                    "validation_success": success,
                    "validation_safety": safety,
                    "validation_fall": fall,
                    "seconds_validation": seconds,
                },
            )
            write_json(self._record, [asdict(entry) for entry in self.history], indent=None)
        return one

    def restore(self) -> Validation | None:
        """Give the policy the best weights back; None when nothing was validated. Raises: CheckpointError."""
        if self.best is None or self.best.update == self.trainer.update:
            return self.best
        self.trainer.processes.wait()  # for the first one to have written them
        with open_tensors(self._weights) as file:
            update = (file.metadata() or {}).get("update")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if update != str(self.best.update):  # the checkpoints after the best one were lost, and not made again
            raise CheckpointError(
                f"{self._weights}: holds the weights after update {update}, the best on record are those after "
                f"{self.best.update}; give the run more updates or time, or use another run folder"
            )
        self.trainer.load_weights(weights)
        return self.best

    def _save(self) -> None:
        weights = self.trainer.weights()  # gathered from all processes, for the first one
        if not self.trainer.processes.first:
            return
        temporary = self._weights.with_name(f".{WEIGHTS}.tmp")
        try:
            whole = {name: value.contiguous() for name, value in weights.items()}
            save_file(whole, temporary, {"update": str(self.trainer.update)})
            os.replace(temporary, self._weights)
        except (OSError, SafetensorError) as error:
            remove(temporary)
            raise CheckpointError(f"{self._weights}: cannot write: {error}; free disk space and resume") from error

    def _resume(self) -> list[Validation]:
        try:
            entries = [Validation(**entry) for entry in parse_json(self._record.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self._record}: unreadable ({error}); delete it to start anew") from error
        return [entry for entry in entries if entry.update <= self.trainer.update]

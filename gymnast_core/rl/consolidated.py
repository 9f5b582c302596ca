"""What consolidation takes back at the end of a practice, and whether the practised task pays for it."""

from __future__ import annotations

import math

from gymnast_core.progress import busy
from gymnast_core.rl.best_adapter import Validation
from gymnast_core.rl.consolidation import Consolidation, Views, views_of_successes
from gymnast_core.rl.measuring import Measuring
from gymnast_core.rl.trainer import GRPOTrainer


def consolidated(
    trainer: GRPOTrainer, measuring: Measuring, others: Views | None, chosen: Validation | None, count: int
) -> tuple[str, bool]:
    """Consolidate the adapter of `trainer` (`rl.consolidation`), and put it back where success at the practised task
    falls by more than one standard error.

    others: logged pictures of other tasks, where there are any. chosen: the update that is kept, with its success on
    `count` seeds; None where nothing was compared.

    Returns what came of it, and whether anything was consolidated.
    """
    if others is None:
        return "no episode of another task is logged", False
    learned = views_of_successes(measuring.way(count))
    if learned is None:
        return "practice has taught nothing that succeeds", False
    weights, before = trainer.trained, trainer.trained.copy()
    with busy(f"consolidating on {len(others)} pictures of other tasks"):
        steps = Consolidation(trainer.policy, weights, trainer.update_policy.before, trainer.config, trainer.processes)
        kept = str(steps(learned, others))
    if chosen is None:
        return kept, True
    success = measuring.validate(count)[0]
    error = math.sqrt(max(chosen.success * (1.0 - chosen.success), 1.0 / count) / count)
    if success >= chosen.success - error:
        return kept, True
    weights.put(before)
    return f"not kept, since success fell from {chosen.success:.2f} to {success:.2f}: {kept}", True

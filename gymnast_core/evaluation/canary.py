"""Canary trials: the robot has the last word on an adapter that imagination let through.

Base and adapter run from the same resets, in an order that the seed decides, until an anytime-valid paired test says
"better" or "worse", or the trials are spent. "better" confirms the adapter. "worse" rolls it back at once, and so does
a fall of another task, or an adapter that is harder on the arm, beyond two standard errors of the paired difference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.config import CanaryConfig
from gymnast_core.errors import DataError
from gymnast_core.estimates import paired_difference
from gymnast_core.evaluation.session import Bench, PlannedTrial, TrialRecord, TrialSession
from gymnast_core.policy.adapter_state import Evidence, read_evidence, write_evidence
from gymnast_core.results import write_result
from gymnast_core.robot.strain import ArmStrain, hard_events, total
from gymnast_core.seeds import derive_seed
from gymnast_core.sequential_test import PairedTest, simulate

STANDARD_ERRORS = 2.0
MIN_PAIRS = 5
"""Pairs from which a rise of holds, or a fall of another task, counts."""


@dataclass(frozen=True)
class CanaryResult:
    """What canary trials found, written to result.json and kept beside the adapter.

    verdict: "better", "worse" or "undecided", by the test alone. state: what the adapter is from now on.
    base, adapter: successes over the pairs that count. strain: holds and refusals per trial that are the policy's
    doing, of the base and of the adapter; base_arm, adapter_arm: what all of these trials cost the arm. others: paired
    change of success on other tasks, by task.
    """

    adapter: str
    task: str
    verdict: str
    state: str
    reason: str
    pairs: int
    void: int
    base_successes: int
    adapter_successes: int
    evidence_better: float
    evidence_worse: float
    strain: tuple[float, float]
    others: dict[str, float] = field(default_factory=dict)
    trials: int = 0
    run_folder: str = ""
    base_arm: ArmStrain = field(default_factory=ArmStrain)
    adapter_arm: ArmStrain = field(default_factory=ArmStrain)


def plan_pairs(task: str, adapter: str, pairs: int, seed: int) -> list[PlannedTrial]:
    """Trials in pairs from the same reset, base and adapter in an order drawn by `seed`."""
    planned = []
    for number in range(pairs):
        reset = derive_seed(seed, "canary", task, number) % 2**31
        order = ["base", adapter]
        if derive_seed(seed, "order", task, number) % 2:
            order.reverse()
        planned += [PlannedTrial(task, reset, policy) for policy in order]
    return planned


def pairs_of(records: Sequence[TrialRecord], adapter: str) -> list[tuple[TrialRecord, TrialRecord]]:
    """(base, adapter) records of the pairs that are complete, in order."""
    pairs = []
    for first, second in zip(records[::2], records[1::2]):
        base, adapted = (first, second) if second.policy == adapter else (second, first)
        if base.seed != adapted.seed or adapted.policy != adapter:
            raise DataError(f"trials {first.trial} and {second.trial} are not a pair of the base and {adapter}")
        pairs.append((base, adapted))
    return pairs


class Canary:
    """Runs canary trials of `adapter` on a bench and decides what becomes of it.

    others: further tasks of the station, `config.other_trials` pairs each, which the adapter must not harm.
    folder: of the adapter, where the evidence is kept; run: where the trials are. Both make it resumable.
    """

    def __init__(
        self,
        bench: Bench,
        config: CanaryConfig,
        adapter: str,
        task: str,
        others: Sequence[str],
        folder: Path,
        run: Path,
        seed: int = 0,
        tell: Callable[[int, str, Any], None] = lambda trial, phase, nested: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.bench, self.config = bench, config
        self.adapter, self.task, self.others = adapter, task, tuple(others)
        self.folder, self.run_folder, self.seed = folder, run, seed
        self._tell, self._say = tell, say

    def __call__(self) -> CanaryResult:
        """Run, decide, and write the evidence beside the adapter.

        Raises: CheckpointError when the adapter was rolled back before or is gone; StationError from the bench, after
        which the canary can be started again.
        """
        if read_evidence(self.folder).state == "rolled back":
            raise DataError(f"adapter {self.adapter} was rolled back; practise again")
        self._say(describe_power(self.config))
        records = self._trials(self.task, self.config.trials, "task", self._stop_reason)
        pairs = pairs_of(records, self.adapter)
        test = self._test(pairs)
        trouble, changes, count = self._strain_trouble(pairs), {}, len(records)
        if test.verdict != "worse" and not trouble:
            for other in self.others:
                found, more = self._other_task(other)
                if math.isfinite(found.mean):
                    changes[other] = found.mean
                count += more
                if found.n >= MIN_PAIRS and found.mean < -max(STANDARD_ERRORS * found.standard_error, 1e-9):
                    trouble = f"success at '{other}' changed by {found.mean:+.2f} ± {found.standard_error:.2f}"
        result = self._decide(test, trouble, pairs, changes, count)
        write_result(self.run_folder, result)
        keep_evidence(self.folder, result)
        self._say(result.reason)
        return result

    def _trials(
        self, task: str, pairs: int, name: str, until: Callable[[Sequence[TrialRecord]], str] | None
    ) -> list[TrialRecord]:
        folder = self.run_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        plan = plan_pairs(task, self.adapter, pairs, self.seed)
        session = TrialSession(self.bench, plan, folder, tell=self._tell, until=until or (lambda records: ""))
        session.stopped_by = until(session.records) if until is not None and session.records else ""
        records = session()
        return records[: len(records) // 2 * 2]

    def _test(self, pairs: Sequence[tuple[TrialRecord, TrialRecord]]) -> PairedTest:
        return PairedTest.of(self.config.alpha, [(base.value, adapted.value) for base, adapted in pairs])

    def _stop_reason(self, records: Sequence[TrialRecord]) -> str:
        """Asked after every trial: whether the complete pairs so far settle it."""
        if len(records) % 2:
            return ""
        test = self._test(pairs_of(records, self.adapter))
        self._say(str(test))
        return test.verdict if test.verdict != "undecided" else ""

    def _other_task(self, task: str) -> tuple[Any, int]:
        records = self._trials(task, self.config.other_trials, f"other_{task}", None)
        pairs = pairs_of(records, self.adapter)
        found = paired_difference([base.value for base, _ in pairs], [adapted.value for _, adapted in pairs])
        return found, len(records)

    def _strain_trouble(self, pairs: Sequence[tuple[TrialRecord, TrialRecord]]) -> str:
        """Why the adapter is too hard on the arm, in words; empty where it is not."""
        rise = paired_difference([hardness(base) for base, _ in pairs], [hardness(adapted) for _, adapted in pairs])
        if rise.n < MIN_PAIRS or not rise.mean > max(STANDARD_ERRORS * rise.standard_error, 1e-9):
            return ""
        return f"it is harder on the arm: {rise.mean:+.1f} ± {rise.standard_error:.1f} holds and refusals per trial"

    def _decide(
        self,
        test: PairedTest,
        trouble: str,
        pairs: Sequence[tuple[TrialRecord, TrialRecord]],
        changes: dict[str, float],
        count: int,
    ) -> CanaryResult:
        state = "confirmed" if test.verdict == "better" and not trouble else "imagined"
        if test.verdict == "worse" or trouble or (test.verdict == "undecided" and self.config.undecided == "base"):
            state = "rolled back"
        kept = {"confirmed": "confirmed", "rolled back": "rolled back", "imagined": "kept, unconfirmed"}[state]
        both = [(base, adapted) for base, adapted in pairs if math.isfinite(base.value + adapted.value)]
        strains = np.array([(hardness(base), hardness(adapted)) for base, adapted in both]).reshape(-1, 2)
        return CanaryResult(
            adapter=self.adapter,
            task=self.task,
            verdict=test.verdict,
            state=state,
            reason=f"adapter {self.adapter} is {kept}: {trouble or test}",
            pairs=test.pairs,
            void=test.void,
            base_successes=int(sum(base.value for base, _ in both)),
            adapter_successes=int(sum(adapted.value for _, adapted in both)),
            evidence_better=test.evidence_better,
            evidence_worse=test.evidence_worse,
            strain=(float(strains[:, 0].mean()), float(strains[:, 1].mean())) if len(strains) else (0.0, 0.0),
            base_arm=total(base.strain for base, _ in both),
            adapter_arm=total(adapted.strain for _, adapted in both),
            others=changes,
            trials=count,
            run_folder=str(self.run_folder),
        )


def keep_evidence(folder: Path, result: CanaryResult) -> None:
    """Write what canary trials found beside the adapter, unless it stands there. folder: of the adapter."""
    known = read_evidence(folder)
    if known.state != result.state or not known.trials:
        write_evidence(folder, Evidence(result.state, known.gated, result.reason, dataclasses.asdict(result)))  # type: ignore[arg-type]


def hardness(record: TrialRecord) -> float:
    """Holds and refusals of a trial that are the policy's doing; NaN for one that does not count."""
    return float(hard_events(record.events)) if math.isfinite(record.value) else math.nan


def describe_power(config: CanaryConfig) -> str:
    """The smallest rise from a base of 0.2 that these trials find with the wanted probability, in words."""
    for rate in np.arange(0.3, 1.0, 0.05):
        if float(simulate(0.2, float(rate), config.alpha, config.trials, 2000)["better"]) >= config.power:
            return (
                f"canary: up to {config.trials} pairs of trials; a rise from 0.20 to {rate:.2f} is found with "
                f"probability {config.power:g}, a wrong verdict has at most {config.alpha:g}"
            )
    return (
        f"canary: up to {config.trials} pairs of trials; no rise from 0.20 is found with probability {config.power:g}: "
        "give it more trials"
    )

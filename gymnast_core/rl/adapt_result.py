"""What a test-time training found: written to result.json, sent as the action's result, shown by the page."""

from __future__ import annotations

from dataclasses import dataclass, field

FRAME = "frame.png"
"""Where a frame captured for a practice lies in its run folder."""
REFUSED = "refused"
"""Where an adapter that the gate refused lies in its run folder, if it is kept."""


STANDARD_ERRORS = 2.0
MIN_PAIRS = 8


@dataclass(frozen=True)
class OtherTask:
    """Success of another task in imagination before and after, 0 to 1; None where nothing could be judged."""

    instruction: str
    before: float | None
    after: float | None
    difference: float | None
    standard_error: float | None
    pairs: int

    @property
    def fell(self) -> bool:
        """Whether success fell by more than two standard errors of the paired difference."""
        if self.difference is None or self.standard_error is None or self.pairs < MIN_PAIRS:
            return False
        return self.difference < -max(STANDARD_ERRORS * self.standard_error, 1e-9)

    def describe(self) -> str:
        """In words, for people."""
        if self.difference is None or self.before is None or self.after is None:
            return f"'{self.instruction}': not judged"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        return f"'{self.instruction}' {self.before:.2f} -> {self.after:.2f} ({self.difference:+.2f}{error})"


@dataclass(frozen=True)
class AdaptResult:
    """The outcome of one test-time training.

    adapter_id: name of the accepted adapter; empty where the base policy was kept.
    success_before, success_after: success in imagination, 0 to 1; None where nothing could be judged.
    standard_error: of their paired difference. pairs: judged pairs of rollouts with equal seeds.
    iterations: updates made; chosen_update: the one whose weights were taken.
    failed_conditions: the conditions of the gate that failed, in words; distrust: those about imagination itself.
    safety_before, safety_after: share of imagined actions that the safety envelope changed, 0 to 1.
    pictures: the start frames' files, relative to the run folder.
    positions: where the end effector was taken to be in each start frame, and how that is known, in words.
    consolidated: what the end of practice took back of what it cost other tasks, in words; empty where nothing did.
    refused_adapter: name of an adapter that the gate refused, where `keep_refused` had it kept in the run folder.
    others: the station's other tasks before and after.
    confirmation: what a success had to survive to count; empty where each counted. refused: how many of the
    `successes_replayed` did not, by the reason.
    stopped_by: "iterations", "time", "solved", "nothing to learn", "no room to rise" or "distrust".
    go_on: what to do where imagination is not trusted, in words.
    """

    adapter_id: str
    accepted: bool
    success_before: float | None
    success_after: float | None
    standard_error: float | None
    iterations: int
    chosen_update: int
    failed_conditions: tuple[str, ...]
    message: str
    run_folder: str
    instruction: str
    pairs: int
    safety_before: float
    safety_after: float
    world_model_gate: str
    world_model: str
    start_frames: tuple[str, ...]
    positions: tuple[str, ...]
    distrust: tuple[str, ...]
    gate_judge_trained_the_adapter: bool
    stopped_by: str
    judge_spent: str
    pictures: tuple[str, ...] = ()
    consolidated: str = ""
    refused_adapter: str = ""
    go_on: tuple[str, ...] = ()
    others: tuple[OtherTask, ...] = ()
    confirmation: str = ""
    refused: dict[str, int] = field(default_factory=dict)
    successes_replayed: int = 0

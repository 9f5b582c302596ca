"""The small contracts through which neighbours meet: a policy acts, an environment resets and steps, a judge scores.

Conventions, everywhere: frames are uint8 RGB (H, W, 3); actions are float32, Bridge convention, 7 numbers per step:
translation (dx, dy, dz) in metres and rotation (droll, dpitch, dyaw) in radians along the base axes, then the gripper,
absolute, 1 = open and 0 = closed. N counts rollouts, K the actions of one chunk, T the steps of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Start:
    """Where one rollout begins: a frame to imagine from, or a reset of a station.

    instruction: the one that the policy gets.
    frame: (H, W, 3) uint8 RGB; needed by a world model, ignored by a station.
    task: name of a task of the station's scene; needed by a station, ignored by a world model.
    seed: decides everything random of this rollout: the station's reset and the world model's noise.
    position: (3,) of the end effector in that frame (metres, base frame), for a world model to keep to the workspace;
        None: not known, taken for the station's start position.
    """

    instruction: str
    frame: np.ndarray | None = None
    task: str = ""
    seed: int = 0
    position: Sequence[float] | None = None


@dataclass(frozen=True)
class StepResult:
    """What came of one chunk of actions.

    frames: (N, H, W, 3) uint8, each rollout's frame after the last action of the chunk.
    executed: (N, K, 7) float32, the actions after the safety envelope (in imagination, the limits that need no arm).
    success: (N, K) float32, the environment's own truth after each action (1 or 0), NaN where it has none
        (imagination).
    safety_events: for each rollout and each of its actions, the names of the safety envelope's interventions.
    changed: (N, K) bool, the actions it did not let through as they were; `executed` alone does not tell, since
        rotations may be commanded by another convention (`arm.rotation`).
    credit: (N, K) float32, how far the task has come by that truth, 0 to 1, and 1 only where success is; None where
        the environment tells success alone.
    holds: for each rollout and each of its actions, the kinds of the faults that held the arm after it; empty where
        there is no arm. loads: (N, K) float32, the largest share of its allowed effort that a joint took meanwhile;
        None where there is no arm.
    """

    frames: np.ndarray
    executed: np.ndarray
    success: np.ndarray
    safety_events: Sequence[Sequence[tuple[str, ...]]]
    changed: np.ndarray
    credit: np.ndarray | None = None
    holds: Sequence[Sequence[tuple[str, ...]]] = ()
    loads: np.ndarray | None = None


@runtime_checkable
class Environment(Protocol):
    """The world model, the simulated station and the real station alike."""

    @property
    def max_rollouts(self) -> int:
        """How many rollouts fit side by side: 1 on a real arm."""
        ...

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        """Begin len(starts) rollouts; returns their first frames (N, H, W, 3) uint8."""
        ...

    def step(self, actions: np.ndarray) -> StepResult:
        """Execute one chunk (N, K, 7) in every rollout."""
        ...

    def video(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Frames since the reset, (N, len(indices), H, W, 3) uint8; index 0 is the first frame, None means all.

        A world model decodes only what is asked for here.
        """
        ...


@runtime_checkable
class DoubtingEnvironment(Environment, Protocol):
    """An environment that can tell which of its rollouts should not be believed."""

    def doubts(self) -> list[str]:
        """For each rollout since the reset why not, in words; "" where nothing speaks against it."""
        ...


@runtime_checkable
class MeteredEnvironment(Environment, Protocol):
    """An environment that can say how little its rollouts are like anything that it learned."""

    def meters(self, rows: Sequence[int]) -> list[dict[str, float]]:
        """Of these rollouts since the reset, as far as they have gone: a reading for each meter, by name."""
        ...


@runtime_checkable
class MeasuredEnvironment(Environment, Protocol):
    """An environment that also measures: what episodes log besides frames and actions."""

    def states(self) -> np.ndarray:
        """Measured states since the reset, (N, T + 1, 7) float32, see `Episode.states`."""
        ...

    def facts(self) -> list[dict[str, Any]]:
        """For each rollout, what else an episode's metadata should hold."""
        ...


@dataclass(frozen=True)
class PolicySample:
    """Action tokens drawn by a policy, K steps x 7 dimensions flattened time-major.

    tokens: (N, K * 7) int64, bin indices 0 .. n_bins - 1 (not vocabulary ids).
    log_probs: (N, K * 7) float32 at the sampling temperature, in nats.
    actions: (N, K, 7) float32, un-normalised, Bridge convention.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    actions: np.ndarray


@runtime_checkable
class Policy(Protocol):
    """Acts on a batch of frames and instructions, one chunk of K actions at a time."""

    @property
    def chunk_length(self) -> int: ...

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Greedy actions (N, K, 7) float32 for frames (N, H, W, 3) uint8."""
        ...


@runtime_checkable
class EpisodicPolicy(Policy, Protocol):
    """A policy that remembers earlier calls (a script, a server with a memory): it learns when an episode begins."""

    def restart(self) -> None:
        """A new episode begins."""
        ...


@runtime_checkable
class SeededPolicy(Policy, Protocol):
    """A policy with a memory or chance of its own: each episode begins with a seed, and runs by itself."""

    def begin(self, seed: int) -> None:
        """A new episode begins; `seed` decides everything random in it."""
        ...


@runtime_checkable
class TrainablePolicy(Policy, Protocol):
    """A policy with a distribution over action tokens, so that GRPO can train it."""

    def sample(
        self, frames: np.ndarray, instructions: Sequence[str], temperature: float, seeds: Sequence[int]
    ) -> PolicySample:
        """Draw one chunk per row. Row i depends on seeds[i] alone, so the other rows of the batch change nothing."""
        ...

    def log_probs(
        self, frames: np.ndarray, instructions: Sequence[str], tokens: np.ndarray, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies), each (N, K * 7) float32, of given bin indices; differentiable."""
        ...


@dataclass(frozen=True)
class Verdict:
    """One judge's answer on one episode.

    score: 0 = not completed, 1 = completed, between for partial credit; None is an abstention, never a failure.
    confidence: 0 to 1.
    reason: why, in words or figures, for the report.
    completed_at: which of the shown frames first shows the task completed; None where that is not known.
    grade: on the judge's own scale, what its threshold is held against; None where it has no scale.
    progress: how far the task has come, 0 to 1, in each of the shown frames; one value where only the end is known,
        none where nothing is. It is partial credit only where a recipe asks for it (`progress_credit`).
    """

    score: float | None
    confidence: float
    reason: str
    completed_at: int | None = None
    grade: float | None = None
    progress: tuple[float, ...] = ()

    @property
    def completed(self) -> bool | None:
        """What success is counted by: full marks only; None for an abstention. Part of a task is no success."""
        return None if self.score is None else self.score >= 1.0


@runtime_checkable
class Judge(Protocol):
    """Scores episodes by their frames."""

    @property
    def name(self) -> str: ...

    def frame_indices(self, n_frames: int) -> list[int]:
        """Which of an episode's n_frames this judge looks at (always the last one)."""
        ...

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """One verdict per video; each video is (n, H, W, 3) uint8, the frames `frame_indices` named."""
        ...


@runtime_checkable
class OutcomeJudge(Judge, Protocol):
    """A judge that scores what an environment itself says of the outcome, not frames."""

    def judge_outcomes(self, success: np.ndarray, credit: np.ndarray) -> list[Verdict]:
        """Verdicts of outcomes (N,), 0 or 1 or NaN where an environment has no truth; credit (N,), 0 to 1 or NaN."""
        ...

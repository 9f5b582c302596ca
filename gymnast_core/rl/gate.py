"""The gate of test-time training: an adapter is let through only when every condition holds.

What must hold: success in imagination rises; the safety envelope is not met more often; and imagination from these
start frames deserves trust, which the world model's measured figures and the frames' familiarity say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.config import find_model
from gymnast_core.rl.parts import StationFile
from gymnast_core.rl.rollout import Rollout
from gymnast_core.world_model.checkpoint import LoadedWorldModel
from gymnast_core.world_model.familiarity import load_familiarity
from gymnast_core.world_model.fidelity import Standing, assess, beside, sampling_of

STANDARD_ERRORS = 2.0
MIN_PAIRS = 8


@dataclass(frozen=True)
class GateResult:
    """Success in imagination before and after, 0 to 1; difference and its standard error over pairs of equal seeds;
    share of imagined actions that the safety envelope changed; the conditions that failed, in words."""

    success_before: float
    success_after: float
    difference: float
    standard_error: float
    pairs: int
    safety_before: float
    safety_after: float
    failed_conditions: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return not self.failed_conditions


@dataclass(frozen=True)
class Trust:
    """How far imagination deserves trust. world_model: its measured figures in words; frames: a line for each start
    frame; failed: the conditions that do not hold, in words."""

    world_model: str
    frames: tuple[str, ...]
    failed: tuple[str, ...]


def judge_imagination(
    station: StationFile, loaded: LoadedWorldModel, frames: Sequence[np.ndarray], instruction: str, horizon: int
) -> Trust:
    """Hold the station's world model against its measured figures, start frames (H, W, 3) against its training data.

    horizon: imagined steps. What was never measured has failed. Raises: CheckpointError for a damaged file.
    """
    standing = _standing(station, instruction, horizon)
    model = find_model(station.config.models.world_model, station.path)
    measure = load_familiarity(beside(model, "familiarity.safetensors"), loaded.autoencoder)
    if measure is None:
        unknown = "how far start frames lie from the world model's training data was never measured"
        return Trust(standing.line, (f"not measured: {unknown}",), (*standing.failed, unknown))
    distances = measure.distances(loaded.autoencoder, frames)
    far = tuple(
        f"start frame {number} is unlike what the world model was trained on ({distance:.1f}, familiar up to "
        f"{measure.limit:.1f})"
        for number, distance in enumerate(distances)
        if not distance <= measure.limit
    )
    return Trust(standing.line, tuple(measure.describe(float(d)) for d in distances), (*standing.failed, *far))


def world_model_gate_line(station: StationFile, horizon: int, instruction: str = "") -> str:
    """One line to print before practice: the world model's agreement and bias, and whether its gate holds.

    horizon: imagined steps. instruction: its own figures, where there are enough; otherwise those of all.
    Raises: CheckpointError.
    """
    standing = _standing(station, instruction, horizon)
    if not standing.failed:
        return f"world model: {standing.line}; the gate holds"
    return f"world model: {standing.line}; WARNING: the gate does not hold: {'; '.join(standing.failed)}"


def _standing(station: StationFile, instruction: str, horizon: int) -> Standing:
    models, limits = station.config.models, station.config.adaptation
    return assess(
        find_model(models.world_model, station.path),
        sampling_of(models),
        horizon,
        instruction,
        limits.min_agreement,
        limits.max_bias,
    )


def no_room_to_rise(before: Sequence[Rollout]) -> str:
    """Why no adapter could pass the gate, not even one that always succeeds, in words; empty where one could."""
    outcomes = np.array([rollout.completed for rollout in before])
    outcomes = outcomes[np.isfinite(outcomes)]
    if len(outcomes) < MIN_PAIRS:
        return f"only {len(outcomes)} of {len(before)} imagined rollouts could be judged, needed {MIN_PAIRS}"
    if _rise(1.0 - outcomes)[2]:
        return ""
    return (
        f"{int(outcomes.sum())} of {len(outcomes)} imagined rollouts of the base succeed already: no rise could be two "
        "standard errors; take a frame in which the task is not done yet, a harder one, or more evaluation_rollouts"
    )


def _rise(differences: np.ndarray) -> tuple[float, float, bool]:
    """Mean of paired differences, its standard error, and whether it is a rise of two of them; NaN and no for none."""
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    error = float(differences.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return mean, error, bool(mean > 0 and mean >= STANDARD_ERRORS * error)


def judge_adapter(before: Sequence[Rollout], after: Sequence[Rollout], distrust: Sequence[str] = ()) -> GateResult:
    """Compare rollouts of the base and of the adapted policy from the same starts with the same seeds.

    An adapter passes when success rises by two standard errors of the paired difference, when its actions do not meet
    the safety envelope more often than the base's (beyond two standard errors of that paired difference), and when
    there is no reason to distrust imagination (`distrust`: conditions that failed already).
    """
    first = np.array([rollout.completed for rollout in before])
    second = np.array([rollout.completed for rollout in after])
    judged = np.isfinite(first) & np.isfinite(second)
    n = int(judged.sum())
    mean, error, rose = _rise(second[judged] - first[judged])
    shares_before = np.array([rollout.changed_share for rollout in before])
    shares_after = np.array([rollout.changed_share for rollout in after])
    rise = shares_after - shares_before
    rise_error = float(rise.std(ddof=1) / math.sqrt(len(rise))) if len(rise) > 1 else 0.0
    failed = []
    if n < MIN_PAIRS:
        failed.append(f"only {n} of {len(before)} pairs of rollouts could be judged, needed {MIN_PAIRS}")
    elif not rose:
        failed.append(
            f"success in imagination changed by {mean:+.3f}, needed a rise of at least "
            f"{STANDARD_ERRORS * error:.3f} (two standard errors)"
        )
    if len(rise) and rise.mean() > max(STANDARD_ERRORS * rise_error, 1e-9):
        failed.append(
            f"the safety envelope changed {shares_after.mean():.1%} of the adapted policy's actions, "
            f"{shares_before.mean():.1%} of the base's"
        )
    return GateResult(
        success_before=float(np.nanmean(first)) if np.isfinite(first).any() else math.nan,
        success_after=float(np.nanmean(second)) if np.isfinite(second).any() else math.nan,
        difference=mean,
        standard_error=error,
        pairs=n,
        safety_before=float(shares_before.mean()) if len(before) else 0.0,
        safety_after=float(shares_after.mean()) if len(after) else 0.0,
        failed_conditions=(*failed, *distrust),
    )

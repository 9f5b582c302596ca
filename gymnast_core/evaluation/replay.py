"""Logged episodes replayed in imagination, and their policy let loose in it: outcomes against outcomes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gymnast_core.config import SCRIPTED_POLICIES, find_model
from gymnast_core.data.episode import Episode
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.outcome import LABEL_THEM, Outcome
from gymnast_core.data.worldgym import check_bridge
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.estimates import paired_difference, success_rate
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.progress import console
from gymnast_core.protocols import Environment, Judge, Policy, Start, Verdict
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.replay import replay_actions
from gymnast_core.rollout.rollout import RolloutOptions, run_rollouts
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.fidelity import ClosedLoop, Replay
from gymnast_core.world_model.meters import MeterFigure, calibrate_meter

ALL = "all"


MISTAKES_SHOWN = 8
UNFAMILIARITY = "unfamiliarity"
"""How far a first frame lies from the training frames, among the meters."""


BASE = "base"
"""What the executor calls the station's own policy, greedy."""


Meter = Callable[[Sequence[Start], Sequence[np.ndarray]], list[dict[str, float]]]
"""Starts and actions that were just replayed to readings, for each by name."""


@dataclass(frozen=True)
class Logged:
    """An episode, its frames still on disk, and what really came of its first `steps` steps. outcome: who says so."""

    source: StoredEpisode
    episode: Episode
    steps: int
    success: bool
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(frozen=True)
class Played:
    """A replayed episode: the judge on the imagined frames and on the real ones.

    confirmed: the verdict on the imagined frames, an abstention where that success was not confirmed. readings: of the
    meters of hallucination, by name.
    frames: (2 n, S, S, 3), real then imagined, of one to show."""

    entry: Logged
    imagined: Verdict
    real: Verdict
    confirmed: Verdict
    readings: Mapping[str, float] = field(default_factory=dict)
    frames: np.ndarray | None = None

    @property
    def mistaken(self) -> bool:
        """Whether imagination ended otherwise than the station."""
        return self.imagined.completed is not None and self.imagined.completed != self.entry.success


def replay(
    environment: Environment,
    judge: Judge,
    logged: Sequence[Logged],
    seed: int,
    tick: Callable[[int], None] = lambda count: None,
    confirm: Confirms | None = None,
    meter: Meter | None = None,
) -> list[Played]:
    """Logged actions from the logged first frame, in imagination, judged; episode i's noise depends on (seed, i).

    confirm: says which imagined successes are to be believed. meter: reads the meters of what was just replayed.
    """
    played: list[Played] = []
    for begin in range(0, len(logged), environment.max_rollouts):
        batch = logged[begin : begin + environment.max_rollouts]
        starts = [
            Start(entry.episode.instruction, entry.source.frame(0), seed=derive_seed(seed, "replay", begin + i))
            for i, entry in enumerate(batch)
        ]
        # What the arm did is what the world model was trained on.
        actions = [entry.episode.executed[: entry.steps] for entry in batch]
        imagined = replay_actions(environment, judge, starts, actions)
        verdicts = [one.verdict for one in imagined]
        readings = meter(starts, actions) if meter is not None else [{} for _ in batch]
        confirmed = confirm(starts, actions, verdicts) if confirm is not None else verdicts
        side = imagined[0].video.shape[2]
        real_frames = [entry.source.pick(judge.frame_indices(entry.steps + 1), side) for entry in batch]
        real = judge.judge(real_frames, [start.instruction for start in starts])
        for i, entry in enumerate(batch):
            one = Played(entry, verdicts[i], real[i], confirmed[i], readings[i])
            if one.mistaken and sum(other.frames is not None for other in played) < MISTAKES_SHOWN:
                pick = np.linspace(0, len(real_frames[i]) - 1, min(8, len(real_frames[i]))).astype(int)
                one = dataclasses.replace(one, frames=np.concatenate((real_frames[i][pick], imagined[i].video[pick])))
            played.append(one)
        tick(len(batch))
    return played


def closed_loop(
    policy: Policy,
    environment: Environment,
    judge: Judge,
    logged: Sequence[Logged],
    config: EvaluateConfig,
    tick: Callable[[int], None] = lambda count: None,
) -> list[tuple[Logged, float]]:
    """Each episode with the policy's success in imagination from its first frame, 0 to 1 (NaN: the judge abstained).

    Over config.horizon steps; as often as config.repeats where the policy sampled, once where it was greedy.
    """
    found: list[tuple[Logged, float]] = []
    temperatures = {temperature_of(entry, config.temperature) for entry in logged}
    for temperature in sorted(temperatures):
        chosen = [entry for entry in logged if temperature_of(entry, config.temperature) == temperature]
        repeats = config.repeats if temperature else 1
        options = RolloutOptions(config.horizon, temperature or None, stop_at_success=False, keep_frames=False)
        size = max(1, environment.max_rollouts // repeats)
        for begin in range(0, len(chosen), size):
            batch = chosen[begin : begin + size]
            starts = [
                Start(
                    entry.episode.instruction,
                    entry.source.frame(0),
                    seed=derive_seed(config.seed, "closed loop", entry.source.path.name, repeat),
                    position=entry.episode.position(0),
                )
                for entry in batch
                for repeat in range(repeats)
            ]
            seeds = [derive_seed(start.seed, "policy") for start in starts]
            rollouts = run_rollouts(policy, environment, judge, starts, seeds, options)
            scores = np.array([rollout.completed for rollout in rollouts]).reshape(len(batch), repeats)
            for entry, row in zip(batch, scores):
                judged = row[np.isfinite(row)]
                found.append((entry, float(judged.mean()) if len(judged) else math.nan))
            tick(len(batch))
    return found


def played_by(entry: Logged, policy: Path) -> bool:
    """Whether this very policy, without an adapter and without looking ahead, really played the episode."""
    facts = entry.episode.metadata
    name = str(facts.get("policy", ""))
    if not name or name in SCRIPTED_POLICIES or facts.get("adapter") or facts.get("look_ahead"):
        return False
    if name == BASE:
        return True
    try:
        folder = find_model(name, network=False)  # an episode makes nobody fetch
        return folder == policy or _digest(folder) == _digest(policy)
    except (ConfigError, OSError):
        return False


def temperature_of(entry: Logged, default: float) -> float:
    """How the policy acted in an episode: as its metadata says, greedy where the executor played it, or `default`."""
    facts = entry.episode.metadata
    value = facts.get("temperature", 0.0 if facts.get("policy") == BASE else default)
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise DataError(f"{entry.source.path}: temperature: found {value!r}, needed a number of at least 0")
    return float(value)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def labelled(files: Sequence[StoredEpisode], config: EvaluateConfig, judge: Judge | None = None) -> list[Logged]:
    """Episodes whose outcome within the horizon is known: by step, or from their end where they are no longer than it.
    Success counts once it was reached, as it ends a trial. Where only the end is known, `judge` looks at the real
    frames up to the horizon. Raises: DataError where there is no such episode."""
    logged: list[Logged] = []
    unsure: list[Logged] = []
    ends = 0
    for file in files:
        if len(logged) + len(unsure) >= config.outcomes:
            break
        outcome = file.outcome()
        if outcome.success is None and not outcome.frames:
            continue
        ends += 1
        episode = file.steps()
        steps = min(episode.answered, config.horizon)
        check_bridge(episode.executed[:steps], f"{file.path}: executed")
        success = outcome.within(steps)
        if success is None and steps == episode.length:
            success = outcome.success
        if not steps or (success is None and (judge is None or outcome.success is None)):
            continue
        try:
            file.instruction()
        except DataError as error:
            console.print(f"warning: left out: {error}", style="yellow", markup=False, soft_wrap=True)
            continue
        entry = Logged(file, episode, steps, bool(success), outcome)
        (unsure if success is None else logged).append(entry)
    if judge is not None:
        logged += _look(judge, unsure, config.batch)
    if not logged:
        raise DataError(
            f"data: no held-out episode has a known outcome within {config.horizon} steps (of {len(files)} episodes, "
            f"{ends} have an outcome); {LABEL_THEM} with the step, raise --horizon, or leave --config out"
        )
    return logged


def _look(judge: Judge, unsure: Sequence[Logged], size: int) -> list[Logged]:
    """Episodes with the judge's verdict on the real frames up to the horizon; those it abstains on are left out."""
    found: list[Logged] = []
    for begin in range(0, len(unsure), size):
        batch = unsure[begin : begin + size]
        videos = [entry.source.pick(judge.frame_indices(entry.steps + 1)) for entry in batch]
        verdicts = judge.judge(videos, [entry.episode.instruction for entry in batch])
        for entry, verdict in zip(batch, verdicts):
            if verdict.completed is not None:
                said = Outcome(verdict.completed, judge.name)
                found.append(dataclasses.replace(entry, success=verdict.completed, outcome=said))
    return found


def replay_figures(played: Sequence[Played], name: str, confirmed: bool = False) -> Replay | None:
    """Figures of the replays of one instruction, or ALL; None where the judge gave no verdict.

    confirmed: of the verdicts after confirmation.
    """
    chosen = [one for one in played if name in (ALL, one.entry.episode.instruction)]
    verdicts = [one.confirmed if confirmed else one.imagined for one in chosen]
    judged = [(bool(verdict.completed), one) for verdict, one in zip(verdicts, chosen) if verdict.completed is not None]
    if not judged:
        return None
    estimate = success_rate([float(completed == one.entry.success) for completed, one in judged])
    told = [one for one in chosen if one.real.score is not None and not one.entry.outcome.judged]
    control = success_rate([float(one.real.completed == one.entry.success) for one in told])
    return Replay(
        agreement=round(estimate.mean, 4),
        standard_error=round(estimate.standard_error, 4),
        episodes=estimate.n,
        false_positives=sum(completed and not one.entry.success for completed, one in judged),
        false_negatives=sum(not completed and one.entry.success for completed, one in judged),
        judge_agreement=round(control.mean, 4) if control.n else None,
        abstained=len(chosen) - len(judged),
    )


def meter_figures(played: Sequence[Played], unfamiliarity: np.ndarray | None = None) -> dict[str, MeterFigure]:
    """What each meter says of the judged replays that ended otherwise than they really did.

    unfamiliarity: (n,) of every replay's first frame, to be compared with.
    """
    judged = [row for row, one in enumerate(played) if one.imagined.completed is not None]
    differed = np.array([played[row].mistaken for row in judged], dtype=bool)
    readings = {name: np.array([played[row].readings[name] for row in judged]) for name in played[0].readings}
    if unfamiliarity is not None:
        readings[UNFAMILIARITY] = unfamiliarity[judged]
    return {name: calibrate_meter(values, differed) for name, values in readings.items()}


def loop_figures(loops: Sequence[tuple[Logged, float]], name: str) -> ClosedLoop | None:
    chosen = [
        (score, float(entry.success))
        for entry, score in loops
        if name in (ALL, entry.episode.instruction) and math.isfinite(score)
    ]
    if len(chosen) < 2:
        return None
    imagined, station = np.array(chosen).T
    bias = paired_difference(station, imagined)
    return ClosedLoop(
        imagined=round(float(imagined.mean()), 4),
        station=round(float(station.mean()), 4),
        bias=round(bias.mean, 4),
        standard_error=round(bias.standard_error, 4),
        episodes=bias.n,
    )

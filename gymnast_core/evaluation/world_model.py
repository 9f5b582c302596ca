"""`gymnast world-model evaluate`: what a world model's pictures, and its outcomes, are worth.

Pictures: error by horizon on held-out episodes and an action sheet (`gymnast_core/world_model/evaluate.py`). With a
station file also outcomes, on the held-out episodes that say what became of them:

* replay: their logged actions from their first frame in imagination, scored by the station's judge: how often that is
  the outcome that really happened by then (`horizon` steps, which bounds how far practice may imagine);
* closed loop: the station's policy in imagination from the first frames of those episodes that it really played: how
  far its success there is from its success on the station;
* familiarity: how far held-out frames lie from the training frames, against which every start frame is held.

The outcomes' figures (gate.json) and the training frames' features (familiarity.safetensors) are kept beside the
weights, where `gymnast adapt` and `gymnast train` read them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from gymnast_core.config import SCRIPTED_POLICIES, NotNegative, StationConfig, find_model, load_config
from gymnast_core.data.episode import Episode, read_episode
from gymnast_core.data.frames import resize_frame, write_image
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.graph import find_station_file
from gymnast_core.progress import console, progress_bar
from gymnast_core.protocols import Environment, Judge, Policy, Start, TrainablePolicy, Verdict
from gymnast_core.reporting.report import Bar, Figure, Section, report_run
from gymnast_core.reporting.statistics import success_rate
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.run_folder import RunFolder, derive_seed, read_json_lines
from gymnast_core.world_model import evaluate as pictures
from gymnast_core.world_model.checkpoint import LoadedWorldModel, load_world_model
from gymnast_core.world_model.dataset import EpisodeFile, find_all, parse_source
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.familiarity import MAX_REFERENCE, calibrate, choose_frames, save_familiarity
from gymnast_core.world_model.fidelity import (
    MAX_BIAS,
    MIN_AGREEMENT,
    ClosedLoop,
    Fidelity,
    Replay,
    beside,
    describe_sampling,
    fingerprint,
    write_fidelity,
)

ALL = "all"
HELD_OUT_FRAMES = 400
MISTAKES_SHOWN = 8
BASE = "base"
"""What the executor calls the station's own policy, greedy."""


@dataclass(frozen=True)
class EvaluateConfig(pictures.EvaluateConfig):
    """Evaluation of a world model: of its pictures and, with a station file, of its outcomes."""

    config: str = ""
    """Station file, whose judge scores imagined outcomes and whose policy acts in them; sampling is as it says unless
    given here. Empty: pictures only."""
    policy: str = ""
    """Policy checkpoint instead of the station's."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    training: tuple[str, ...] = ()
    """Folders of the episodes it was trained on, for the measure of familiarity; none: those its config names."""
    outcomes: Annotated[int, Field(ge=1)] = 1000
    """At most so many episodes are replayed."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 4
    """Closed-loop rollouts from each first frame of an episode that the policy sampled."""
    temperature: NotNegative = 1.0
    """How the policy acted in episodes that do not say; 0: greedy."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Rollouts side by side."""


def evaluate(config: EvaluateConfig) -> int:
    """Measure, print and write result.json and report.html, and the two files beside the weights.

    Raises: ConfigError, CheckpointError, DataError, JudgeError.
    """
    from gymnast_core.policy.openvla import load_policy
    from gymnast_core.reward import load_judge

    path = find_station_file(config.config) if config.config else None
    station = load_config(StationConfig, path) if path else None
    if station is not None and config.judge:
        judging = dataclasses.replace(station.judge, kind="classifier", checkpoint=config.judge)
        station = dataclasses.replace(station, judge=judging)
    model = find_model(config.model, path)
    if station is not None:
        own = station.models
        config = dataclasses.replace(
            config,
            steps=config.steps or own.sampling_steps,
            mode=config.mode or own.cache,
            solver=config.solver or own.solver,
        )
    loaded = load_world_model(model, config.device, config.autoencoder, dtype=None)
    files = pictures.held_out_files(config.data, config.held_out)
    run = RunFolder(config.run, config, tensorboard=False)
    result = pictures.evaluate_pictures(config, loaded, files, run)
    run.write_result(result)
    title = f"World model: {config.model}"
    report_run(run.path, title)
    sections = [_familiarity(config, model, loaded, files)]
    if station is not None and path is not None:
        sampling = pictures.chosen_sampling(loaded, config.steps, config.mode, config.solver)
        sampling = dataclasses.replace(sampling, guidance=station.models.guidance)
        replaying = WorldModelEnvironment(loaded, max_rollouts=config.batch, sampling=sampling)
        arm = DeadReckoning(station.arm, station.safety)
        acting = WorldModelEnvironment(loaded, max_rollouts=config.batch, sampling=sampling, arm=arm)
        judge = load_judge(station, path, run.path)
        logged = labelled(files, config)
        folder = find_model(config.policy or station.models.policy, path)
        with progress_bar() as bar:
            row = bar.add_task("replaying", total=len(logged), note="")
            played = replay(replaying, judge, logged, config.seed, lambda n: bar.update(row, advance=n))
            starts = [entry for entry in logged if played_by(entry, folder)]
            loops: list[tuple[Logged, float]] = []
            if starts:
                policy = load_policy(folder, station.models.unnorm_key, config.device)
                row = bar.add_task("closed loop", total=len(starts), note="")
                loops = closed_loop(policy, acting, judge, starts, config, lambda n: bar.update(row, advance=n))
        names = [ALL, *sorted({entry.episode.instruction for entry in logged})]
        fidelity = Fidelity(
            measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            weights=fingerprint(model),
            sampling=describe_sampling(sampling),
            horizon=config.horizon,
            judge=f"{judge.name} {station.judge.checkpoint if judge.name == 'classifier' else station.judge.model}",
            data=tuple(config.data),
            replay={name: found for name in names if (found := replay_figures(played, name))},
            closed_loop={name: loop for name in names if (loop := loop_figures(loops, name))},
            policy=config.policy or station.models.policy,
            temperatures=tuple(sorted({temperature_of(entry, config.temperature) for entry, _ in loops})),
        )
        sections = [*_told(run, fidelity, played, len(logged) - len(starts)), *sections]
        written = write_fidelity(model, fidelity)
        console.print(f"figures kept in {written}", markup=False, highlight=False, soft_wrap=True)
        run.write_result({**result, "fidelity": dataclasses.asdict(fidelity)})
    report_run(run.path, title, first=sections)
    console.print(f"report: {run.path / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return 0


@dataclass(frozen=True)
class Logged:
    """An episode and what really came of its first `steps` steps."""

    path: Path
    episode: Episode
    steps: int
    success: bool


@dataclass(frozen=True)
class Played:
    """A replayed episode: the judge on the imagined frames and on the real ones.

    frames: (2 n, S, S, 3), real then imagined, of one to show."""

    entry: Logged
    imagined: Verdict
    real: Verdict
    frames: np.ndarray | None = None


def replay(
    environment: Environment,
    judge: Judge,
    logged: Sequence[Logged],
    seed: int,
    tick: Callable[[int], None] = lambda count: None,
) -> list[Played]:
    """Logged actions from the logged first frame, in imagination, judged; episode i's noise depends on (seed, i)."""
    played: list[Played] = []
    shown = 0
    for begin in range(0, len(logged), environment.max_rollouts):
        batch = logged[begin : begin + environment.max_rollouts]
        starts = [
            Start(entry.episode.instruction, entry.episode.frames[0], seed=derive_seed(seed, "replay", begin + i))
            for i, entry in enumerate(batch)
        ]
        environment.reset(starts)
        actions = np.zeros((len(batch), max(entry.steps for entry in batch), 7), np.float32)
        for i, entry in enumerate(batch):  # what the arm did is what the world model was trained on
            actions[i, : entry.steps] = entry.episode.executed[: entry.steps]
        environment.step(actions)
        indices = [judge.frame_indices(entry.steps + 1) for entry in batch]
        videos = _videos(environment, indices)
        real = [
            np.stack([resize_frame(entry.episode.frames[k], videos[0].shape[2]) for k in chosen])
            for entry, chosen in zip(batch, indices)
        ]
        instructions = [start.instruction for start in starts]
        imagined_verdicts, real_verdicts = judge.judge(videos, instructions), judge.judge(real, instructions)
        for i, entry in enumerate(batch):
            one = Played(entry, imagined_verdicts[i], real_verdicts[i])
            if (
                one.imagined.completed is not None
                and one.imagined.completed != entry.success
                and shown < MISTAKES_SHOWN
            ):
                pick = np.linspace(0, len(videos[i]) - 1, min(8, len(videos[i]))).astype(int)
                one = dataclasses.replace(one, frames=np.concatenate((real[i][pick], videos[i][pick])))
                shown += 1
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
    for greedy in (True, False):
        chosen = [entry for entry in logged if (temperature_of(entry, config.temperature) == 0) == greedy]
        repeats = 1 if greedy else config.repeats
        size = max(1, environment.max_rollouts // repeats)
        for begin in range(0, len(chosen), size):
            batch = chosen[begin : begin + size]
            rows = [(entry, repeat) for entry in batch for repeat in range(repeats)]
            seeds = [derive_seed(config.seed, "closed loop", entry.path.name, repeat) for entry, repeat in rows]
            starts = [
                Start(
                    entry.episode.instruction,
                    entry.episode.frames[0],
                    seed=seed,
                    position=entry.episode.position(0),
                )
                for (entry, _), seed in zip(rows, seeds)
            ]
            temperatures = [temperature_of(entry, config.temperature) for entry, _ in rows]
            scores = _act(policy, environment, judge, starts, seeds, temperatures, config.horizon)
            for entry, row in zip(batch, scores.reshape(len(batch), repeats)):
                judged = row[np.isfinite(row)]
                found.append((entry, float(judged.mean()) if len(judged) else math.nan))
            tick(len(batch))
    return found


def _act(
    policy: Policy,
    environment: Environment,
    judge: Judge,
    starts: Sequence[Start],
    seeds: Sequence[int],
    temperatures: Sequence[float],
    horizon: int,
) -> np.ndarray:
    """Scores (N,) of closed-loop rollouts; NaN for an abstention."""
    instructions = [start.instruction for start in starts]
    frames = environment.reset(starts)
    for chunk in range(-(-horizon // policy.chunk_length)):
        if max(temperatures) == 0:
            actions = policy.act(frames, instructions)
        elif len(set(temperatures)) == 1 and isinstance(policy, TrainablePolicy):
            drawn = [derive_seed(seed, "policy", chunk) for seed in seeds]
            actions = policy.sample(frames, instructions, temperatures[0], drawn).actions
        else:
            raise DataError(
                f"found episodes sampled at temperatures {sorted(set(temperatures))}; needed one, or greedy"
            )
        frames = environment.step(actions[:, : horizon - chunk * policy.chunk_length]).frames
    verdicts = judge.judge(_videos(environment, [judge.frame_indices(horizon + 1)] * len(starts)), instructions)
    return np.array([math.nan if verdict.completed is None else float(verdict.completed) for verdict in verdicts])


def played_by(entry: Logged, policy: Path) -> bool:
    """Whether this very policy, without an adapter and without looking ahead, really played the episode."""
    facts = entry.episode.metadata
    name = str(facts.get("policy", ""))
    if not name or name in SCRIPTED_POLICIES or facts.get("adapter") or facts.get("look_ahead"):
        return False
    if name == BASE:
        return True
    try:
        folder = find_model(name)
        return folder == policy or _digest(folder) == _digest(policy)
    except (ConfigError, OSError):
        return False


def temperature_of(entry: Logged, default: float) -> float:
    """How the policy acted in an episode: as its metadata says, greedy where the executor played it, or `default`."""
    facts = entry.episode.metadata
    value = facts.get("temperature", 0.0 if facts.get("policy") == BASE else default)
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise DataError(f"{entry.path}/episode.json: temperature: found {value!r}, needed a number of at least 0")
    return float(value)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _videos(environment: Environment, indices: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Each rollout's own frames; only frames that somebody wants are decoded."""
    union = sorted({index for chosen in indices for index in chosen})
    place = {index: k for k, index in enumerate(union)}
    decoded = environment.video(union)
    return [decoded[row][[place[index] for index in chosen]] for row, chosen in enumerate(indices)]


def labelled(files: Sequence[EpisodeFile], config: EvaluateConfig) -> list[Logged]:
    """Episodes whose outcome within the horizon is known: from the station's truth, logged with every step, or, where
    they are no longer than the horizon, from their outcome. Success counts once it was reached, as it ends a trial."""
    logged: list[Logged] = []
    for file in files:
        if file.path.suffix == ".mp4" or len(logged) >= config.outcomes:  # WorldGym's layout knows no outcome
            continue
        episode = read_episode(file.path)
        lines = [line for line in read_json_lines(file.path / "steps.jsonl") if "action" in line]
        steps = min(episode.answered, config.horizon)
        truths = [line.get("success") for line in lines[:steps]]
        success: bool | None = None
        if truths and all(isinstance(truth, bool) for truth in truths):
            success = any(truths)
        elif steps == episode.length:
            success = episode.success
        if steps and success is not None:
            logged.append(Logged(file.path, episode, steps, success))
    if not logged:
        raise DataError(
            f"data: of none of the held-out episodes is the outcome within {config.horizon} steps known; label them, "
            "raise --horizon, or leave --config out"
        )
    return logged


def replay_figures(played: Sequence[Played], name: str) -> Replay | None:
    chosen = [one for one in played if name in (ALL, one.entry.episode.instruction)]
    judged = [one for one in chosen if one.imagined.score is not None]
    if not judged:
        return None
    estimate = success_rate([float(one.imagined.completed == one.entry.success) for one in judged])
    control = success_rate(
        [float(one.real.completed == one.entry.success) for one in chosen if one.real.score is not None]
    )
    return Replay(
        agreement=round(estimate.mean, 4),
        standard_error=round(estimate.standard_error, 4),
        episodes=estimate.n,
        false_positives=sum(bool(one.imagined.completed) and not one.entry.success for one in judged),
        false_negatives=sum(not one.imagined.completed and one.entry.success for one in judged),
        judge_agreement=round(control.mean, 4) if control.n else None,
    )


def loop_figures(loops: Sequence[tuple[Logged, float]], name: str) -> ClosedLoop | None:
    chosen = [
        (score, float(entry.success))
        for entry, score in loops
        if name in (ALL, entry.episode.instruction) and math.isfinite(score)
    ]
    if len(chosen) < 2:
        return None
    imagined, station = np.array(chosen).T
    difference = imagined - station
    return ClosedLoop(
        imagined=round(float(imagined.mean()), 4),
        station=round(float(station.mean()), 4),
        bias=round(float(difference.mean()), 4),
        standard_error=round(float(difference.std(ddof=1) / math.sqrt(len(difference))), 4),
        episodes=len(difference),
    )


def _told(run: RunFolder, fidelity: Fidelity, played: Sequence[Played], not_played: int) -> list[Section]:
    """Print the figures, with warnings; the report's sections."""
    overall = fidelity.replay.get(ALL)
    loop = fidelity.closed_loop.get(ALL)
    warnings = []
    for name, replayed in fidelity.replay.items():
        console.print(
            f"replay, {name}: agreement {replayed.agreement:.2f} ± {replayed.standard_error:.2f} "
            f"(n = {replayed.episodes}; {replayed.false_positives} false positives, {replayed.false_negatives} false "
            f"negatives; the judge on the real frames: {_shown(replayed.judge_agreement)})",
            highlight=False,
            markup=False,
        )
        if replayed.agreement < MIN_AGREEMENT:
            warnings.append(f"{name}: agreement {replayed.agreement:.2f} is below {MIN_AGREEMENT:.2f}")
    for name, found in fidelity.closed_loop.items():
        console.print(
            f"closed loop, {name}: imagined {found.imagined:.2f}, station {found.station:.2f}, bias {found.bias:+.2f} "
            f"± {found.standard_error:.2f} (n = {found.episodes})",
            highlight=False,
            markup=False,
        )
        if abs(found.bias) > MAX_BIAS:
            warnings.append(f"{name}: bias {found.bias:+.2f} is beyond {MAX_BIAS:.2f}")
    if loop is None:
        warnings.append("no held-out episode was played by this policy: closed-loop bias is not measured")
    for warning in warnings:
        console.print(f"warning: {warning}: success in imagination says little", style="yellow", markup=False)
    figures = []
    for number, one in enumerate(one for one in played if one.frames is not None):
        assert one.frames is not None
        half = len(one.frames) // 2
        rows = [np.concatenate(list(part), axis=1) for part in (one.frames[:half], one.frames[half:])]
        write_image(run.media(f"disagreement_{number}.jpg"), np.concatenate(rows, axis=0))
        truth = "completed" if one.entry.success else "not completed"
        words = f"'{one.entry.episode.instruction}', really {truth} (above); imagined (below): {one.imagined.reason}"
        figures.append(Figure(f"media/disagreement_{number}.jpg", words))
    rows_replay = [
        ("instruction", "agreement", "episodes", "false positives", "false negatives", "judge on real frames")
    ]
    rows_replay += [
        (
            name,
            f"{r.agreement:.2f} ± {r.standard_error:.2f}",
            str(r.episodes),
            str(r.false_positives),
            str(r.false_negatives),
            _shown(r.judge_agreement),
        )
        for name, r in fidelity.replay.items()
    ]
    rows_loop = [("instruction", "imagined", "station", "bias", "episodes")]
    rows_loop += [
        (name, f"{c.imagined:.2f}", f"{c.station:.2f}", f"{c.bias:+.2f} ± {c.standard_error:.2f}", str(c.episodes))
        for name, c in fidelity.closed_loop.items()
    ]
    return [
        Section(
            "Do replayed actions give the outcome that really happened?",
            ". ".join(warnings) or f"Agreement of at least {MIN_AGREEMENT:.2f} and bias within {MAX_BIAS:.2f} hold.",
            "warning" if warnings else "good",
            facts=(
                ("judge", fidelity.judge),
                ("sampling", f"{fidelity.sampling}, {fidelity.horizon} steps"),
                ("data", ", ".join(fidelity.data)),
            ),
            bars=(Bar("replay agreement", overall.agreement, overall.standard_error, overall.episodes),)
            if overall
            else (),
            rows=tuple(rows_replay),
        ),
        Section(
            "Is the policy as good in imagination as on the station?",
            f"Policy {fidelity.policy}, acting as in the episodes (temperature "
            f"{', '.join(f'{t:g}' for t in fidelity.temperatures) or '-'}); "
            f"{not_played} episodes that it did not play are left out.",
            rows=tuple(rows_loop),
        ),
        *([Section("Where imagination and station disagree", figures=tuple(figures))] if figures else []),
    ]


def _familiarity(
    config: EvaluateConfig, model: Path, loaded: LoadedWorldModel, files: Sequence[EpisodeFile]
) -> Section:
    """Write the measure of familiarity where the training episodes are at hand; the report's section."""
    named = config.training or tuple(str(source) for source in loaded.made_by.get("data", ()))
    folders = [Path(parse_source(source)[0]) for source in named]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    title = "How far do frames lie from the training data?"
    if missing or not folders:
        words = (
            f"not measured: training episodes {', '.join(missing) or 'unknown'} are not there; name them (--training)"
        )
        console.print(f"familiarity {words}", style="yellow", markup=False)
        return Section(title, words, "warning")
    held = {file.path.resolve() for file in files}
    training = [file for folder in folders for file in find_all(folder) if file.path.resolve() not in held]
    try:
        measure = calibrate(
            loaded.autoencoder,
            choose_frames(training, MAX_REFERENCE, config.seed),
            choose_frames(files, HELD_OUT_FRAMES, config.seed),
            {"training": list(named), "held_out": list(config.data)},
        )
        save_familiarity(beside(model, "familiarity.safetensors"), measure)
    except DataError as error:
        console.print(f"familiarity not measured: {error}", style="yellow", markup=False)
        return Section(title, str(error), "warning")
    q = measure.quantiles
    words = (
        f"Held-out frames lie {q[50]:.2f} (median), {q[90]:.2f} (90 of 100) and {q[99]:.2f} (99 of 100) standard "
        f"deviations from {len(measure.reference)} training frames; "
        f"a start frame is familiar up to {measure.limit:.2f}."
    )
    console.print(f"familiarity: {words}", highlight=False, markup=False)
    return Section(title, words)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

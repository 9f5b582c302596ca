"""`gymnast adapt`: test-time training. One frame and an instruction go in; an adapter that passed the gate comes out.

Phases, as in the progress lines: load, before (the base policy in imagination), train (GRPO on rollouts from the
frame), after (the same seeds again with the adapter), gate. The base weights are never changed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field

from gymnast_core.config import NotNegative, Positive, Seed, StationConfig
from gymnast_core.data.episode import read_episode
from gymnast_core.data.frames import check_frame, read_image, resize_frame, write_image
from gymnast_core.data.worldgym import read_video
from gymnast_core.errors import DataError
from gymnast_core.policy.parallel import Ranks
from gymnast_core.progress import console, progress_bar
from gymnast_core.protocols import Environment, Judge, Policy, Start
from gymnast_core.rl.gate import GateResult, judge_adapter, judge_imagination, no_room_to_rise
from gymnast_core.rl.processes import run_practice
from gymnast_core.rl.rollout import Rollout, RolloutOptions, run_rollouts
from gymnast_core.rl.selection import BestAdapter
from gymnast_core.rl.starts import check_instruction, read_starts
from gymnast_core.rl.trainer import BudgetSpent, GRPOConfig, GRPOTrainer, NothingToLearn
from gymnast_core.run_folder import RunFolder, derive_seed, is_number

ONE_JUDGE = "there is one judge only: it trained the adapter, and it scores before and after"
REACH = 1.0
"""Metres along an axis, base frame: the end effector is nowhere farther (a WidowX 250s reaches 0.65)."""
SHOWN = 4
"""Imagined rollouts in the report, before and after each."""
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
Coordinate = Annotated[float, Field(ge=-REACH, le=REACH)]


@dataclass(frozen=True)
class AdaptConfig:
    """Test-time training from one frame and an instruction. Empty and unset fields are taken from the station file."""

    frame: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
    """Where the frame comes from: a PNG or JPEG file, a video, or the folder of a logged episode; several: practice
    begins at each in turn. `SOURCE:INDEX` names the frame of a video or the step of an episode."""
    instruction: str
    """What the robot should do."""
    index: int = 0
    """Which frame of a video, or which step of an episode, where the source does not say; negative counts from the
    end."""
    position: tuple[Coordinate, Coordinate, Coordinate] | None = None
    """Where the end effector is in the frames: x y z, metres, base frame, so that imagination keeps to the workspace.
    None: as logged in an episode, otherwise the station's start position."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    run: str = ""
    """Run folder; empty: a new one below runs/adapt. A run that was interrupted is resumed."""
    policy: str = ""
    """Policy checkpoint instead of the station's."""
    world_model: str = ""
    """World-model folder instead of the station's."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    gate_judge: str = ""
    """Folder of another learned judge for the measurements before and after, one that did not train the adapter;
    empty: the station's gate_judge, which may be a model behind an API."""
    recipe: str = ""
    """GRPO recipe: "mini", "paper" or a YAML file; empty: the station file's."""
    iterations: Annotated[int, Field(ge=1)] | None = None
    """At most this many updates; None, here and below: as the station file says."""
    seconds: Positive | None = None
    """At most this many seconds for training, resumptions included."""
    horizon: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Imagined steps a rollout."""
    evaluation_rollouts: Annotated[int, Field(ge=8, le=10000)] | None = None
    """Imagined rollouts of the measurements before and after, each."""
    evaluation_temperature: NotNegative = 0.0
    """How the policy acts in these measurements; 0: greedy, as the executor acts on the arm."""
    validation_rollouts: Annotated[int, Field(ge=0, le=10000)] = 32
    """Imagined rollouts after every update, acting as the executor does, on seeds of their own: the best weights are
    kept, and practice ends when nothing is left to learn. 0: the last weights are taken."""
    rehearsal: str = ""
    """Folder of start frames of other tasks, mixed in so that they are not forgotten."""
    adapters: str = ""
    """Folder for accepted adapters."""
    device: str = ""
    """"cpu", "cuda" or "auto"."""
    seed: Seed = 0
    """Decides noise and whatever is sampled: the same seed, the same run."""


def adapt(config: AdaptConfig) -> int:
    """Run test-time training; 0 when an adapter was accepted, 1 when the base was kept, 130 when interrupted.

    Under torchrun, which takes any other code for a crash, 0 in both of the first cases.
    """
    instruction = check_instruction(config.instruction)
    frames = read_frames(config.frame, config.index)

    def body(run: RunFolder, ranks: Ranks) -> int:
        code = _adapt(config, run, ranks, frames, instruction)
        return code if ranks.size == 1 else 0

    return run_practice("adapt", config, body)


class StartFrame(NamedTuple):
    """A frame (H, W, 3) uint8, and where the end effector is in it (metres, base frame) where that was logged."""

    frame: np.ndarray
    position: Sequence[float] | None = None


def read_frames(sources: Sequence[str], index: int = 0) -> list[StartFrame]:
    """The frame of each source: `PATH`, or `PATH:INDEX` where the path itself holds no such file.

    Raises: DataError, see `read_frame`, and where there is no source.
    """
    if not sources:
        raise DataError("frame: found none, needed at least one image, video or episode folder")
    frames = []
    for source in sources:
        path, colon, last = source.rpartition(":")
        named = colon and re.fullmatch(r"-?\d+", last) and not Path(source).expanduser().exists()
        frames.append(read_frame(path, int(last)) if named else read_frame(source, index))
    return frames


def read_frame(source: str, index: int = 0) -> StartFrame:
    """A frame from an image file, a video and index, or a logged episode and step.

    Raises: DataError naming the file and what is wrong with it, or the range of indices there is.
    """
    path = Path(source).expanduser()
    if not source.strip() or not path.exists():
        raise DataError(f"frame '{source}': no such image, video or episode folder")
    episode = None
    if path.is_dir():
        episode = read_episode(path)
        frames = episode.frames
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        frames = read_video(path)
    else:
        return StartFrame(read_image(path))
    if not -len(frames) <= index < len(frames):
        raise DataError(
            f"{path}: found {len(frames)} frames, there is no index {index}; allowed are 0 to {len(frames) - 1}"
        )
    frame = check_frame(np.ascontiguousarray(frames[index]), f"{path}: frame {index}")
    return StartFrame(frame, None if episode is None else episode.position(index))


def measure(
    policy: Policy,
    environment: Environment,
    judge: Judge,
    starts: Sequence[Start],
    count: int,
    horizon: int,
    temperature: float | None,
    seed: int,
    tick: Callable[[], None] | None = None,
    video: bool = True,
    part: Sequence[int] | None = None,
) -> list[Rollout]:
    """`count` judged rollouts from the starts in turn; rollout i depends on (seed, i) and the policy alone.

    part: only these of them.
    """
    chosen = range(count) if part is None else part
    begun = [dataclasses.replace(starts[i % len(starts)], seed=derive_seed(seed, "noise", i)) for i in chosen]
    seeds = [derive_seed(seed, "policy", i) for i in chosen]
    options = RolloutOptions(horizon, temperature, keep_frames=video, keep_video=video)
    return run_rollouts(policy, environment, judge, begun, seeds, options, tick)


def _adapt(config: AdaptConfig, run: RunFolder, ranks: Ranks, begun: Sequence[StartFrame], instruction: str) -> int:
    from gymnast_core.policy import adapters
    from gymnast_core.reward import load_judge
    from gymnast_core.reward.spending import spent_by
    from gymnast_core.rl import parts

    if ranks.first:
        run.report_progress("load")
    opened = parts.open_station(config.config, config.policy, config.world_model, config.judge, config.device)
    opened = parts.on_this_rank(opened, ranks)
    station = opened.config
    store = adapters.AdapterStore(config.adapters or station.models.adapters)
    store.prepare()
    budget = station.adaptation
    iterations = config.iterations or budget.iterations
    seconds = config.seconds or budget.seconds
    horizon = config.horizon or budget.horizon
    count = config.evaluation_rollouts or budget.evaluation_rollouts
    recipe = parts.open_recipe(
        config.recipe or budget.recipe, ranks, horizon=horizon, seed=config.seed, trainable="lora", checkpoint_every=1
    )
    with console.status("loading policy, world model and judge"):
        policy = parts.open_policy(opened, recipe)
        environment = parts.open_imagination(opened)
        judge = load_judge(station, opened.path, run.path, ranks.rank, ranks.size)
        second = parts.gate_judge(opened, config.gate_judge)
        gate_judge = judge
        if second is not None:
            gate_judge = load_judge(
                station, opened.path, run.path, ranks.rank, ranks.size, second, "gate_judge_answers"
            )
    known = [task.instruction for task in station.tasks.values()]
    instruction = next((one for one in known if one.casefold() == instruction.casefold()), instruction)
    if instruction not in known:
        console.print(
            f"note: '{instruction}' is no task of station '{station.name}', which has: {', '.join(known) or 'none'}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    frames = [one.frame for one in begun]
    starts = [
        Start(instruction, resize_frame(frame, station.camera.observation_size), position=config.position or position)
        for frame, position in begun
    ]
    if ranks.first:
        for number, frame in enumerate(frames):
            write_image(run.media(f"start_{number}.png"), frame)
    trust = judge_imagination(opened, environment.loaded, frames, instruction, horizon)
    console.print(f"world model: {trust.world_model}", highlight=False, markup=False, soft_wrap=True)
    for words in trust.frames:
        console.print(f"start frame {words}", highlight=False, markup=False, soft_wrap=True)
    for words in trust.failed:
        console.print(
            f"WARNING: {words}: success in imagination says little about the station",
            style="bold yellow",
            markup=False,
            soft_wrap=True,
        )
    if gate_judge is judge:
        console.print(f"note: {ONE_JUDGE}", style="yellow", markup=False, soft_wrap=True)

    evaluation_seed = derive_seed(config.seed, "gate")
    temperature = config.evaluation_temperature or None

    def report(phase: str, iteration: int = 0) -> None:
        if ranks.first:
            run.report_progress(phase, iteration, iterations)

    def imagine(judge: Judge, count: int, seed: int, video: bool) -> list[Rollout]:
        """Each process its share of the rollouts; all of them in order, the same in every process."""
        own = range(count)[ranks.rank :: ranks.size]
        with ranks.in_step(policy.model):
            drawn = measure(
                policy, environment, judge, starts, count, horizon, temperature, seed, video=video, part=own
            )
        shares = ranks.gather(_to_be_told(drawn))
        return [shares[i % ranks.size][i // ranks.size] for i in range(count)]

    def validate() -> tuple[float, float]:
        drawn = imagine(judge, config.validation_rollouts, derive_seed(config.seed, "validation"), False)
        judged = [rollout.completed for rollout in drawn if math.isfinite(rollout.completed)]
        return float(np.mean(judged)) if judged else math.nan, changed_share(drawn)

    def evaluate(phase: str) -> list[Rollout]:
        report(phase)
        with console.status(f"{count} imagined rollouts {phase} training"):
            return imagine(gate_judge, count, evaluation_seed, True)

    before = evaluate("before")
    success_before = np.array([rollout.completed for rollout in before])
    if not np.isfinite(success_before).any():
        reason = before[0].verdict.reason if before[0].verdict else ""
        raise DataError(f"the judge abstained on every rollout before training: {reason}")
    console.print(f"before: success {np.nanmean(success_before):.2f} over {count} imagined rollouts", highlight=False)

    required = trust.failed if budget.world_model_gate == "require" else ()
    hopeless, stopped_by = no_room_to_rise(before), "no room to rise"
    if required:
        hopeless = "no adapter could pass the world-model gate (`world_model_gate: warn` practises all the same)"
        stopped_by = "distrust"
    # On the seeds that updates will be compared on.
    base_safety = validate()[1] if config.validation_rollouts and not hopeless else 0.0
    parts.prepare_training(policy, recipe)
    if recipe.shard:
        ranks.shard(policy.model)
    rehearsal = read_starts(config.rehearsal, station.camera.observation_size) if config.rehearsal else ()
    trainer = GRPOTrainer(
        policy, policy.model, environment, judge, starts, recipe, run, rehearsal, about=models_of(station)
    )
    best = BestAdapter(trainer, validate, base_safety) if config.validation_rollouts else None
    if not hopeless:
        stopped_by = train_within(trainer, iterations, seconds, run, best)
    chosen = best.restore() if best is not None else None

    after = evaluate("after") if trainer.update else before
    weights = trainer.weights() if trainer.sharded else {}
    if not ranks.first:
        return 0
    report("gate", trainer.update)
    gate = judge_adapter(before, after, required)
    if trainer.update == 0:
        nothing = f"no update was made: {hopeless or trainer.hindrance or f'allow more than {seconds:.0f} s'}"
        gate = dataclasses.replace(gate, failed_conditions=(nothing, *required))  # there is nothing to compare
    adapter_id = adapters.adapter_name(station.name, instruction) if gate.accepted else ""
    if gate.accepted:
        metrics = {"success_before": gate.success_before, "success_after": gate.success_after}
        whole = parts.in_one_piece(policy, opened, recipe, weights)
        store.save(whole, parts.ADAPTER, adapter_id, station.name, instruction, metrics)
    message = (
        f"adapter {adapter_id} accepted: success in imagination {gate.success_before:.2f} -> {gate.success_after:.2f}"
        if gate.accepted
        else "base policy kept: " + "; ".join(gate.failed_conditions)
    )
    if gate.accepted and trust.failed:
        message += f"; but the world-model gate does not hold: {'; '.join(trust.failed)}"
    result = {
        "adapter_id": adapter_id,
        "accepted": gate.accepted,
        "success_before": _number(gate.success_before),
        "success_after": _number(gate.success_after),
        "standard_error": _number(gate.standard_error),
        "iterations": trainer.update,
        "chosen_update": chosen.update if chosen is not None else trainer.update,
        "failed_conditions": list(gate.failed_conditions),
        "message": message,
        "run_folder": str(run.path),
        "instruction": instruction,
        "pairs": gate.pairs,
        "safety_before": gate.safety_before,
        "safety_after": gate.safety_after,
        "world_model_gate": budget.world_model_gate,
        "world_model": trust.world_model,
        "start_frames": list(trust.frames),
        "positions": [_place(config, station, position) for _, position in begun],
        "distrust": list(trust.failed),
        "gate_judge_trained_the_adapter": gate_judge is judge,
        "stopped_by": stopped_by,
        "judge_spent": "; before and after: ".join(
            words for one in dict.fromkeys((judge, gate_judge)) if (words := spent_by(one))
        ),
    }
    run.write_result(result)
    _write_report(run, config, recipe, gate, before, after, result)
    console.print(message, style="green" if gate.accepted else "yellow", markup=False, highlight=False, soft_wrap=True)
    if result["judge_spent"]:
        console.print(result["judge_spent"], markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {run.path / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return 0 if gate.accepted else 1


def _place(config: AdaptConfig, station: StationConfig, logged: Sequence[float] | None) -> str:
    """Where imagination takes the end effector to be in a start frame, and how that is known, in words."""
    position = config.position or logged or station.arm.start_position
    how = "as given" if config.position else "as logged" if logged is not None else "taken to be the start position"
    return f"{' '.join(f'{value:.3f}' for value in position)} m, {how}"


def models_of(station: StationConfig) -> dict[str, str]:
    """The models and the judge of a practice, which a resumed run has in common with its beginning."""
    models, judge = station.models, station.judge
    return {
        "policy": models.policy,
        "unnorm_key": models.unnorm_key,
        "world_model": models.world_model,
        "judge": f"{judge.kind} {judge.model if judge.kind == 'vlm' else judge.checkpoint}",
    }


def train_within(
    trainer: GRPOTrainer, iterations: int, seconds: float, run: RunFolder, best: BestAdapter | None = None
) -> str:
    """Update until one of these ends it, and say which: "iterations", "time", "solved" (`best` sees nothing left to
    learn), or "nothing to learn" (no usable group for too long).

    What a resumed run has taken for its updates before counts. A single process stops in the middle of a batch of
    rollouts when time is over; many stop together, after one.
    """
    processes = trainer.processes
    began = time.monotonic() - seconds_taken(run)
    deadline = began + seconds

    def late() -> bool:
        return time.monotonic() > deadline

    def tick() -> None:
        if processes.size == 1 and late():
            raise BudgetSpent

    with progress_bar() as bar:
        task = bar.add_task(
            "practising", total=iterations, completed=trainer.update, note="", visible=processes.rank == 0
        )
        while trainer.update < iterations:
            if best is not None and best.solved:  # before the run was cut short
                return "solved"
            try:
                metrics = trainer.step(tick, late)
            except BudgetSpent:
                return "time"
            except NothingToLearn:
                return "nothing to learn"
            if processes.rank == 0:
                each = (time.monotonic() - began) / trainer.update
                left = min(deadline - time.monotonic(), each * (iterations - trainer.update))
                run.report_progress(
                    "train",
                    trainer.update,
                    iterations,
                    mean_reward=_number(metrics["mean_reward"]),
                    usable_groups=metrics["usable_groups"],
                    seconds_left=max(0.0, left),
                    preview=_preview(trainer, run),
                )
            note = f"reward {metrics['mean_reward']:.2f}, usable groups {metrics['usable_groups']:.0%}"
            if "judge_dollars" in metrics:
                note += f", ${metrics['judge_dollars']:.2f}"
            bar.update(task, completed=trainer.update, note=note)
            if best is not None:
                one = best()
                bar.update(task, note=f"{note}, as it will act {one.success:.2f}")
                if best.solved:
                    return "solved"
            if processes.sum(float(late()))[0]:
                return "time"
    return "iterations"


def seconds_taken(run: RunFolder) -> float:
    """Of rollouts, updates and validations on record in a run folder."""
    return sum(
        value
        for line in run.read_metrics()
        for name, value in line.items()
        if name.startswith("seconds_") and is_number(value)
    )


def _to_be_told(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts, with pictures only where the report may show them: the first few of either kind."""
    shown: Counter[bool] = Counter()
    told = []
    for rollout in rollouts:
        good = rollout.reward >= 0.5
        shown[good] += 1
        if shown[good] > SHOWN:
            rollout = dataclasses.replace(rollout, frames=rollout.frames[:0], video=None)
        told.append(rollout)
    return told


def _preview(trainer: GRPOTrainer, run: RunFolder) -> str:
    """Write a film strip of the latest imagined rollout; its path in the run folder, empty where there is none."""
    from gymnast_core.reporting.media import film_strip, write_picture

    rollout = trainer.example
    if rollout is None or not len(rollout.frames):
        return ""
    name = f"preview_{trainer.update:04d}.jpg"
    write_picture(run.media(name), film_strip(rollout.frames, 8, 96, rollout.reward))
    return f"media/{name}"


def changed_share(rollouts: Sequence[Rollout]) -> float:
    """Mean share of their actions that the safety envelope changed, 0 to 1."""
    return float(np.mean([rollout.changed_share for rollout in rollouts])) if rollouts else 0.0


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _write_report(
    run: RunFolder,
    config: AdaptConfig,
    recipe: GRPOConfig,
    gate: GateResult,
    before: Sequence[Rollout],
    after: Sequence[Rollout],
    result: dict[str, Any],
) -> None:
    from gymnast_core.reporting.media import film_strip, sheet, write_picture, write_video
    from gymnast_core.reporting.report import Bar, Figure, Section, metric_curve, write_report
    from gymnast_core.reporting.statistics import success_rate

    def strips(name: str, rollouts: Sequence[Rollout]) -> Figure:
        good = [rollout for rollout in rollouts if rollout.reward >= 0.5]
        bad = [rollout for rollout in rollouts if not rollout.reward >= 0.5]
        chosen = good[: SHOWN // 2] + bad[: SHOWN - len(good[: SHOWN // 2])]
        rows = [
            (
                rollout.verdict.reason[:90] if rollout.verdict else "",
                film_strip(_pictures(rollout), 8, 112, rollout.reward),
            )
            for rollout in chosen
        ]
        write_picture(run.media(f"imagined_{name}.png"), sheet(rows))
        write_video(run.media(f"imagined_{name}.mp4"), _pictures(chosen[0]))
        return Figure(
            f"media/imagined_{name}.png",
            f"imagined rollouts {name} training, first frame at the left (green: judged completed, red: not)",
        )

    first = success_rate([rollout.completed for rollout in before])
    second = success_rate([rollout.completed for rollout in after])
    adapted = Bar("imagined, adapted", _number(second.mean), _number(second.standard_error), second.n, "good")
    changed = f"{gate.safety_before:.1%} of the base's imagined actions"
    updates = f"{result['iterations']}, ended by {result['stopped_by']}"
    if result["iterations"]:
        changed += f", {gate.safety_after:.1%} of the adapted policy's"
        updates += f"; the weights after update {result['chosen_update']} were taken"
    sections = [
        Section(
            "Outcome",
            str(result["message"]),
            "good" if gate.accepted else "bad",
            facts=(
                ("instruction", str(result["instruction"])),
                (
                    "difference",
                    f"{gate.difference:+.3f} ± {gate.standard_error:.3f} over {gate.pairs} pairs of equal seeds",
                ),
                (
                    "how it acted",
                    f"sampled at {config.evaluation_temperature:g}" if config.evaluation_temperature else "greedy",
                ),
                ("safety envelope", f"changed {changed} (steps too large, or out of the workspace)"),
                ("arm in the frames", "; ".join(dict.fromkeys(result["positions"]))),
                ("updates", updates),
            ),
            bars=(
                Bar("imagined, base policy", _number(first.mean), _number(first.standard_error), first.n, "muted"),
                *([adapted] if result["iterations"] else []),
            ),
        ),
        Section(
            "How far can this imagination be trusted?",
            f"{'. '.join(result['distrust'])}. Success in imagination says little about the station."
            if result["distrust"]
            else "The world-model gate holds, and the start frames are familiar.",
            "warning" if result["distrust"] else "good",
            facts=(
                ("world model", result["world_model"]),
                *(("start frame", words) for words in result["start_frames"]),
                (
                    "if it does not hold",
                    "the base policy is kept" if result["world_model_gate"] == "require" else "a warning, no more",
                ),
                (
                    "judge of this comparison",
                    ONE_JUDGE if result["gate_judge_trained_the_adapter"] else "another one than trained the adapter",
                ),
                *((("spent", result["judge_spent"]),) if result["judge_spent"] else ()),
            ),
            figures=tuple(
                Figure(f"media/start_{number}.png", source, small=True) for number, source in enumerate(config.frame)
            ),
        ),
        Section(
            "Training",
            curves=(
                metric_curve(
                    run.path, {"mean_reward": "mean reward", "usable_groups": "usable groups"}, "Reward", y_range=(0, 1)
                ),
                metric_curve(
                    run.path,
                    {"validation_success": "success", "validation_safety": "actions the envelope changed"},
                    "Validation: acting as the executor does",
                    y_range=(0, 1),
                ),
                metric_curve(run.path, {"entropy": "entropy (nats)"}, "Entropy of an action token"),
            ),
            facts=(
                (
                    "recipe",
                    f"{recipe.groups} groups of {recipe.group_size}, horizon {recipe.horizon}, T {recipe.temperature}"
                    + (", on a base in 4 bits" if recipe.base_precision == "nf4" else ""),
                ),
                ("optimiser", f"AdamW {recipe.learning_rate:g}, minibatch {recipe.minibatch}, epochs {recipe.epochs}"),
            ),
        ),
        Section("Imagined before", figures=(strips("before", before),)),
        *([Section("Imagined after", figures=(strips("after", after),))] if result["iterations"] else []),
    ]
    write_report(run.path, f"Test-time training: {result['instruction']}", sections, f"run {run.path.name}")


def _pictures(rollout: Rollout) -> np.ndarray:
    """The frames the judge saw, or those the policy saw where these show more."""
    if rollout.video is not None and len(rollout.video) >= len(rollout.frames):
        return rollout.video
    return rollout.frames

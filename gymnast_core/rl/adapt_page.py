"""The page of a test-time training: outcome, trust, training curves, imagined rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from gymnast_core.estimates import success_rate
from gymnast_core.files import finite_or_none
from gymnast_core.reporting.media import film_strip, sheet, write_picture, write_video
from gymnast_core.reporting.report import Bar, BarTone, Figure, Section, metric_curve, write_report
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.gate import GateResult
from gymnast_core.rl.practice import OUT_OF_TIME
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.run_folder import RunFolder

ONE_JUDGE = "there is one judge only: it trained the adapter, and it scores before and after"
SHOWN = 4
"""Imagined rollouts in the report, before and after each."""


def write_adapt_page(
    run: RunFolder,
    config: AdaptConfig,
    recipe: GRPOConfig,
    gate: GateResult,
    before: Sequence[Rollout],
    after: Sequence[Rollout],
    result: AdaptResult,
) -> None:
    """Write report.html. Raises: DataError when a file cannot be written."""
    sections = [
        _outcome(config, gate, before, after, result),
        _trust(config, result),
    ]
    if before:
        sections += [
            _training(run, recipe, result),
            Section("Imagined before", figures=(_strips(run, "before", before),)),
        ]
    if result.iterations:
        sections.append(Section("Imagined after", figures=(_strips(run, "after", after),)))
    write_report(run.path, f"Test-time training: {result.instruction}", sections, f"run {run.path.name}")


def _outcome(
    config: AdaptConfig, gate: GateResult, before: Sequence[Rollout], after: Sequence[Rollout], result: AdaptResult
) -> Section:
    if not before:
        return Section("Outcome", result.message, "bad", facts=(("instruction", result.instruction),))
    changed = f"{gate.safety_before:.1%} of the base's imagined actions"
    updates = f"{result.iterations}, ended by {result.stopped_by}"
    bars = [_bar("imagined, base policy", before, "muted")]
    if result.iterations:
        changed += f", {gate.safety_after:.1%} of the adapted policy's"
        updates += f"; the weights after update {result.chosen_update} were taken"
        bars.append(_bar("imagined, adapted", after, "good"))
    difference = f"{gate.difference:+.3f} ± {gate.standard_error:.3f} over {gate.pairs} pairs of equal seeds"
    sampled = f"sampled at {config.evaluation_temperature:g}"
    return Section(
        "Outcome",
        result.message,
        "good" if gate.accepted else "bad",
        facts=(
            ("instruction", result.instruction),
            ("difference", difference),
            ("how it acted", sampled if config.evaluation_temperature else "greedy"),
            ("safety envelope", f"changed {changed} (steps too large, or out of the workspace)"),
            ("arm in the frames", "; ".join(dict.fromkeys(result.positions))),
            ("updates", updates),
            *(("another task", other.describe()) for other in result.others),
            ("start frames", _worth(result)),
            ("a success must survive", _confirmed(result)),
        ),
        bars=tuple(bars),
    )


def _worth(result: AdaptResult) -> str:
    count = len(result.pictures)
    if count > 1:
        return str(count)
    return (
        "1: practice from a single frame may find what only imagination rewards there; more frames (`--frame A B ...`, "
        "`--logged N`) and canary trials on the robot guard against it"
    )


def _confirmed(result: AdaptResult) -> str:
    if not result.confirmation:
        return "nothing: each success counts as it is (recipe: `confirm`)"
    refused = ", ".join(f"{count} {words.removeprefix('not confirmed: ')}" for words, count in result.refused.items())
    return f"{result.confirmation}; of {result.successes_replayed} successes {refused or 'none was refused'}"


def _bar(label: str, rollouts: Sequence[Rollout], tone: BarTone) -> Bar:
    rate = success_rate([rollout.completed for rollout in rollouts])
    return Bar(label, finite_or_none(rate.mean), finite_or_none(rate.standard_error), rate.n, tone)


def _trust(config: AdaptConfig, result: AdaptResult) -> Section:
    text = "The world-model gate holds, and the start frames are familiar."
    if result.distrust:
        text = f"{'. '.join(result.distrust)}. Success in imagination says little about the station."
    otherwise = "the base policy is kept" if result.world_model_gate == "require" else "a warning, no more"
    judge = ONE_JUDGE if result.gate_judge_trained_the_adapter else "another one than trained the adapter"
    return Section(
        "How far can this imagination be trusted?",
        text,
        "warning" if result.distrust else "good",
        facts=(
            ("world model", result.world_model),
            *(("start frame", words) for words in result.start_frames),
            ("if it does not hold", otherwise),
            *(("to go on", words) for words in result.go_on),
            ("judge of this comparison", judge),
            *((("spent", result.judge_spent),) if result.judge_spent else ()),
        ),
        figures=tuple(
            Figure(picture, source, small=True)
            for picture, source in zip_longest(result.pictures, config.frame, fillvalue="from a logged episode")
        ),
    )


def _training(run: RunFolder, recipe: GRPOConfig, result: AdaptResult) -> Section:
    groups = f"{recipe.groups} groups of {recipe.group_size}, horizon {recipe.horizon}, T {recipe.temperature}"
    groups += ", on a base in 4 bits" if recipe.base_precision == "nf4" else ""
    optimiser = f"AdamW {recipe.learning_rate:g}, minibatch {recipe.minibatch}, epochs {recipe.epochs}"
    late = result.stopped_by == "time"
    return Section(
        "Training",
        OUT_OF_TIME.format(updates=result.iterations, wanted="more") if late else "",
        "warning" if late else "",
        curves=(
            metric_curve(
                run.path, {"mean_reward": "mean reward", "usable_groups": "usable groups"}, "Reward", y_range=(0, 1)
            ),
            metric_curve(
                run.path,
                {
                    "validation_success": "success",
                    "validation_safety": "actions the envelope changed",
                    "validation_fall": "fall of other tasks",
                },
                "Validation: acting as the executor does",
                y_range=(0, 1),
            ),
            metric_curve(run.path, {"entropy": "entropy (nats)"}, "Entropy of an action token"),
        ),
        facts=(("recipe", groups), ("optimiser", optimiser)),
    )


def _strips(run: RunFolder, name: str, rollouts: Sequence[Rollout]) -> Figure:
    """Film strips of successes and failures, about as many of each as there were, and a video of the first."""
    good = [rollout for rollout in rollouts if rollout.reward >= 0.5]
    bad = [rollout for rollout in rollouts if not rollout.reward >= 0.5]
    wins = round(SHOWN * len(good) / len(rollouts))
    wins = min(max(wins, SHOWN - len(bad), 1), SHOWN - min(len(bad), 1)) if good else 0
    chosen = good[:wins] + bad[: SHOWN - len(good[:wins])]
    rows = [
        (rollout.verdict.reason[:90] if rollout.verdict else "", film_strip(_pictures(rollout), 8, 112, rollout.reward))
        for rollout in chosen
    ]
    write_picture(run.media(f"imagined_{name}.png"), sheet(rows))
    write_video(run.media(f"imagined_{name}.mp4"), _pictures(chosen[0]))
    return Figure(
        f"media/imagined_{name}.png",
        f"{len(good[:wins])} of {len(good)} imagined rollouts that were judged completed {name} training (green), and "
        f"{len(chosen) - len(good[:wins])} of {len(bad)} that were not (red); first frame at the left",
    )


def _pictures(rollout: Rollout) -> np.ndarray:
    """The frames the judge saw, or those the policy saw where these show more."""
    if rollout.video is not None and len(rollout.video) >= len(rollout.frames):
        return rollout.video
    return rollout.frames

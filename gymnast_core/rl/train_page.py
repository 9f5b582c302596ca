"""The page of a training over many starts: what was done, success by task, the optimiser's curves."""

from __future__ import annotations

from gymnast_core.reporting.report import Section, metric_curve, write_report
from gymnast_core.rl.practice import OUT_OF_TIME
from gymnast_core.rl.train_result import TrainResult
from gymnast_core.run_folder import RunFolder


def write_train_page(run: RunFolder, result: TrainResult, wanted: int) -> None:
    """Write report.html. wanted: updates that were asked for. Raises: DataError when it cannot be written."""
    write_report(run.path, "GRPO training", [_what_was_done(result, wanted), _success(run), _optimiser(run)])


def _what_was_done(result: TrainResult, wanted: int) -> Section:
    told = f"Practised in imagination from {result.starts} start frames."
    if result.environment == "station":
        told = "Upper bound: practised on the simulated station itself, with its truth as reward."
    late = result.stopped_by == "time"
    if late:
        told = f"{OUT_OF_TIME.format(updates=result.updates, wanted=wanted)}. {told}"
    saved = f"{result.saved}, as it was after update {result.chosen_update}"
    return Section(
        "What was done",
        told,
        "warning" if late else "",
        facts=(
            ("updates", f"{result.updates}, ended by {result.stopped_by}"),
            *((("trust in imagination", result.trust),) if result.trust else ()),
            ("saved", saved if result.saved else f"nothing: {result.hindrance}"),
            *((("spent", result.judge_spent),) if result.judge_spent else ()),
        ),
    )


def _success(run: RunFolder) -> Section:
    tasks = sorted({name for line in run.read_metrics() for name in line if name.startswith("success/")})
    by_task = {name: name.removeprefix("success/").replace("_", " ") for name in tasks}
    overall = {
        "mean_reward": "mean reward",
        "usable_groups": "usable groups",
        "actions_changed": "actions the envelope changed",
    }
    return Section(
        "Success while training (sampled, not greedy)",
        curves=(
            metric_curve(run.path, overall, "All", y_range=(0, 1)),
            metric_curve(run.path, by_task, "By task", y_range=(0, 1)),
        ),
    )


def _optimiser(run: RunFolder) -> Section:
    return Section(
        "Optimiser",
        curves=(
            metric_curve(run.path, {"entropy": "entropy (nats)"}, "Entropy of an action token"),
            metric_curve(run.path, {"grad_norm": "gradient norm"}, "Gradient norm before clipping"),
            metric_curve(run.path, {"clip_fraction": "clipped"}, "Share of clipped tokens"),
        ),
    )

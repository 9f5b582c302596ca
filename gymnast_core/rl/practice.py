"""One run of practice: its folder and processes, its budget, its interruption and its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gymnast_core.config import JudgeConfig, StationConfig
from gymnast_core.errors import ConfigError, DataError, GymnastError
from gymnast_core.files import finite_or_none, is_number
from gymnast_core.progress import console, interrupts, progress_bar, say
from gymnast_core.protocols import Judge
from gymnast_core.ranks import PeerLost, Ranks
from gymnast_core.rl.best_adapter import BestAdapter
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.films import EACH_BATCH, ImaginedFilms
from gymnast_core.rl.groups import BudgetSpent, NothingToLearn
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder

OUT_OF_TIME = (
    "NOTE: time ended this practice after {updates} updates, not its number of updates ({wanted}) and not its success. "
    "On a faster or idle machine the result may differ; allow more seconds, or fewer updates"
)
"""Said where `stopped_by` is "time"."""


def models_of(station: StationConfig) -> dict[str, str]:
    """The models and the judge of a practice, which a resumed run has in common with its beginning."""
    models, judge = station.models, station.judge
    return {
        "policy": models.policy,
        "unnorm_key": models.unnorm_key,
        "world_model": models.world_model,
        "judge": name_judge(judge),
    }


def name_judge(judge: JudgeConfig) -> str:
    """Which judge a section means, in words."""
    if judge.kind == "robometer":
        return f"robometer {judge.base_url}"
    asked = judge.kind == "vlm"
    scale = "" if judge.scale == "0-1" else f" on {judge.scale}"
    return f"{judge.kind} {judge.model if asked else judge.checkpoint}{scale}"


def check_progress(recipe: GRPOConfig, judge: Judge) -> None:
    """Raises: ConfigError where the recipe rewards progress that the judge is known not to tell."""
    if recipe.progress_credit and not getattr(judge, "tells_progress", True):
        raise ConfigError(
            f"progress_credit: found {recipe.progress_credit:g}, but the {judge.name} judge tells no progress; needed "
            "a judge of kind robometer, or one with scale 1-5 or log_p_true"
        )


def train_within(
    trainer: GRPOTrainer, iterations: int, seconds: float, run: RunFolder, best: BestAdapter | None = None
) -> str:
    """Update until one of these ends it, and say which: "iterations", "time", "solved" (`best` sees nothing left to
    learn), or "nothing to learn" (no usable group for too long).

    What a resumed run has taken for its updates before counts. A single process stops in the middle of a batch of
    rollouts when time is over; many stop together, after one.
    """
    processes = trainer.processes
    if processes.first:
        films = ImaginedFilms(run)
        trainer.source.films = EACH_BATCH
        trainer.source.show = lambda rollouts: films.keep("train", trainer.update + 1, rollouts)
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
                    mean_reward=finite_or_none(metrics["mean_reward"]),
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


def _preview(trainer: GRPOTrainer, run: RunFolder) -> str:
    """Write a film strip of the latest imagined rollout; its path in the run folder, empty where there is none."""
    from gymnast_core.reporting.media import film_strip, write_picture

    rollout = trainer.source.example
    if rollout is None or not len(rollout.frames):
        return ""
    name = f"preview_{trainer.update:04d}.jpg"
    write_picture(run.media(name), film_strip(rollout.frames, 8, 96, rollout.reward))
    return f"media/{name}"


def run_practice(kind: str, config: Any, body: Callable[[RunFolder, Ranks], int]) -> int:
    """What `body` returns, or 130 when this process was interrupted or another one ended; that run can be resumed.

    kind: names new run folders. config: the run's options, with `run`, its folder; the first process alone writes.
    """
    ranks = Ranks()
    console.quiet = not ranks.first
    name = ranks.gather(config.run or f"runs/{kind}/{datetime.now():%Y%m%d_%H%M%S}")[0]
    run = RunFolder(name, config if ranks.first else None)
    try:
        with interrupts(), ranks.together():
            code = body(run, ranks)
        ranks.finish()
        return code
    except (KeyboardInterrupt, PeerLost) as end:
        if ranks.first:
            what = str(end) or "interrupted"
            run.report_progress("interrupted", message=f"{what}; start again with the same run folder to resume")
            say(f"{what}; resume with --run {run.path}")
        return 130
    except GymnastError as error:
        with contextlib.suppress(DataError):  # where even that cannot be written, the error itself is what counts
            run.report_progress("failed", message=" ".join(str(error).split()))
        raise
    finally:
        run.close()

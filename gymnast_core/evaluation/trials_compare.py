"""`gymnast trials compare`: trials of different days, what they found, and what else differed between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.estimates import independent_interval, paired_difference, paired_interval, success_rate
from gymnast_core.evaluation.camera_view import compare_views, first_view
from gymnast_core.evaluation.comparison import PolicyRate, Tried, in_brackets, outcomes_by_reset, rate_of, read_tried
from gymnast_core.evaluation.conditions import CONDITIONS, Change, Conditions, changes_between, read_conditions
from gymnast_core.evaluation.trials_config import CompareRunsOptions
from gymnast_core.files import finite_or_none
from gymnast_core.progress import say
from gymnast_core.reporting.media import film_strip, write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, write_report
from gymnast_core.run_folder import RunFolder


@dataclass(frozen=True)
class RunRate:
    """What one run says of one policy."""

    run: str
    rate: PolicyRate


@dataclass(frozen=True)
class RunGap:
    """How the success of a policy in one run differs from that in the first run.

    paired: whether it is taken over the resets that both runs share (`resets` of them); otherwise over all trials of
    either. mean: with standard error and 95 % interval.
    """

    policy: str
    first_policy: str
    task: str
    run: str
    paired: bool
    resets: int
    mean: float | None
    standard_error: float | None
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        whose = self.policy if self.policy == self.first_policy else f"{self.policy} against {self.first_policy}"
        if self.mean is None:
            return f"{whose}, {self.task}, {self.run}: no trials to compare"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        over = f"over {self.resets} shared resets" if self.paired else "of other resets"
        return f"{whose}, {self.task}, {self.run}: {self.mean:+.2f}{error}{in_brackets(self.interval)} {over}"


@dataclass(frozen=True)
class RunsResult:
    """What runs say beside each other, written to result.json. changes: what else differed from the first run, by run;
    unknown: runs whose conditions nobody wrote down."""

    runs: tuple[str, ...]
    rates: tuple[RunRate, ...]
    gaps: tuple[RunGap, ...]
    changes: dict[str, tuple[Change, ...]]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoneTrials:
    """A run that is compared. name: unlike that of the other runs."""

    name: str
    tried: tuple[Tried, ...]
    conditions: Conditions | None

    @property
    def policies(self) -> list[str]:
        """In the order in which they came."""
        return list(dict.fromkeys(one.policy for one in self.tried))

    @property
    def tasks(self) -> list[str]:
        return sorted({one.record.task for one in self.tried})


def compare_runs(options: CompareRunsOptions) -> int:
    """Print, and write result.json and report.html. Raises: ConfigError, DataError."""
    folders = [Path(run).resolve() for run in options.runs]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"runs: found {options.runs[0]!r} twice or more; name each once")
    runs = [_read(folder, _name(folder, folders)) for folder in folders]
    out = RunFolder(options.out or f"runs/trials/{datetime.now():%Y%m%d_%H%M%S}_compare", options, tensorboard=False)
    first, *others = runs
    views = {run.name: first_view([one.record.episode_path for one in run.tried]) for run in runs}
    result = RunsResult(
        runs=tuple(run.name for run in runs),
        rates=tuple(
            RunRate(run.name, rate_of(policy, task, run.tried))
            for run in runs for policy in run.policies for task in run.tasks
        ),
        gaps=tuple(gap for run in others for gap in gaps_between(first, run)),
        changes={run.name: tuple(_changes(first, run, views[first.name], views[run.name])) for run in others},
        unknown=tuple(run.name for run in runs if run.conditions is None),
    )  # fmt: skip
    out.write_result(result)
    for gap in result.gaps:
        say(str(gap))
    for name, changes in result.changes.items():
        for change in changes:
            say(f"{name}: {change}")
    say(f"report: {_write_page(out, result, views)}")
    return 0


def gaps_between(first: DoneTrials, run: DoneTrials) -> list[RunGap]:
    """Of the policies that both runs tried; of their first policies where they share none."""
    shared = [(name, name) for name in first.policies if name in run.policies]
    pairs = shared or [(first.policies[0], run.policies[0])]
    tasks = [task for task in first.tasks if task in run.tasks]
    return [_gap(first, run, *names, task) for names in pairs for task in tasks]


def _gap(first: DoneTrials, run: DoneTrials, before: str, after: str, task: str) -> RunGap:
    one, other = outcomes_by_reset(before, task, first.tried), outcomes_by_reset(after, task, run.tried)
    shared = [reset for reset in one if reset in other]
    if shared:
        first_values, values = [one[reset] for reset in shared], [other[reset] for reset in shared]
        found, interval = paired_difference(first_values, values), paired_interval(first_values, values)
        mean, error = found.mean, found.standard_error
    else:
        first_values, values = list(one.values()), list(other.values())
        rates = success_rate(first_values), success_rate(values)
        mean, error = rates[1].mean - rates[0].mean, math.hypot(*(rate.standard_error for rate in rates))
        interval = independent_interval(first_values, values)
    return RunGap(
        after, before, task, run.name, bool(shared), len(shared), finite_or_none(mean), finite_or_none(error), interval
    )


def _changes(
    first: DoneTrials, run: DoneTrials, first_seen: np.ndarray | None, seen: np.ndarray | None
) -> list[Change]:
    changes = (
        [] if first.conditions is None or run.conditions is None else changes_between(first.conditions, run.conditions)
    )
    if first_seen is None or seen is None:
        return changes
    view = compare_views(first_seen, seen)
    return changes if view.same else [Change("camera view", "as in the picture", str(view)), *changes]


def _read(folder: Path, name: str) -> DoneTrials:
    known = (folder / CONDITIONS).exists()
    return DoneTrials(name, tuple(read_tried(folder)), read_conditions(folder) if known else None)


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's own name where no other run has it, else its path."""
    return folder.name if sum(other.name == folder.name for other in folders) == 1 else str(folder)


def _write_page(out: RunFolder, result: RunsResult, views: dict[str, np.ndarray | None]) -> Path:
    bars = tuple(
        Bar(f"{one.run[-18:]}: {one.rate.policy[-14:]}"[-34:], one.rate.rate, one.rate.standard_error, one.rate.trials)
        for one in result.rates
    )
    rows = [("run", "policy", "task", "success", "95 % interval", "not counted")]
    for one in result.rates:
        rate = one.rate
        shown = "not measured" if rate.rate is None else f"{rate.successes} of {rate.trials} ({rate.rate:.0%})"
        interval = in_brackets(rate.interval, "").strip()
        rows.append((one.run, rate.policy, rate.task, shown, interval, str(rate.uncounted)))
    facts = tuple((gap.run, str(gap)) for gap in result.gaps)
    found = Section(
        "What was found", f"Differences are from {result.runs[0]}.", facts=facts, bars=bars, rows=tuple(rows)
    )
    listed = [(name, one.what, one.first, one.second) for name, changes in result.changes.items() for one in changes]
    text = "" if listed else "Nothing that was written down."
    if result.unknown:
        text += f" Nobody wrote down the conditions of: {', '.join(result.unknown)}."
    head = ("run", "what", f"in {result.runs[0]}", "in this run")
    differed = Section(
        "What else differed", text.strip(), "warning" if listed or result.unknown else "good",
        rows=(head, *listed) if listed else (), figures=_pictures(out, views),
    )  # fmt: skip
    return write_report(out.path, f"{len(result.runs)} runs of trials", [found, differed])


def _pictures(out: RunFolder, views: dict[str, np.ndarray | None]) -> tuple[Figure, ...]:
    """What the camera saw at the starts, each run's mean picture."""
    figures = []
    for number, (name, view) in enumerate(views.items()):
        if view is not None:
            file = f"media/view_{number}.png"
            write_picture(out.path / file, film_strip(view.round().astype(np.uint8)[None], 1, 320))
            figures.append(Figure(file, f"{name}: mean of the first frames", small=True))
    return tuple(figures)

"""The page of `gymnast policy evaluate`: which policy was tried how, its success by task, films of trials, failures
first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.data.formats import open_episode
from gymnast_core.estimates import Estimate
from gymnast_core.evaluation.episode_strip import chosen_frames, strip_of
from gymnast_core.evaluation.policy_config import EvaluatePolicyConfig
from gymnast_core.files import finite_or_none
from gymnast_core.reporting.media import write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, write_report

SHOWN_FAILURES, SHOWN_SUCCESSES = 12, 4
"""Films on a page; `episodes` holds every trial."""
PICTURES = 8
"""Of one film."""
SHOWN_ROWS = 500
"""Trials in the table."""


@dataclass(frozen=True)
class Trial:
    """One trial on record. success: None where nobody judged it. steps: how many actions it took."""

    folder: Path
    task: str
    success: bool | None
    steps: int


def read_trials(folder: Path) -> list[Trial]:
    """The trials on record below a folder. Raises: DataError."""
    return [_read(one) for one in find_episodes(folder)]


def write_policy_page(
    run: Path, options: EvaluatePolicyConfig, trials: Sequence[Trial], rates: Mapping[str, Estimate]
) -> Path:
    """Write report.html into `run`. rates: of each task, and over all of them as "all". Raises: DataError."""
    names = [name for name in rates if name != "all"]
    shown = [*names, "all"] if len(names) > 1 else names
    sections = [
        Section(
            "Success on the simulated station",
            facts=_facts(options),
            bars=tuple(_bar(name, rates[name]) for name in shown),
        ),
        *_films(run, trials),
        Section("Every trial", _left_out(len(trials)), rows=(("trial", "task", "outcome", "steps"), *_rows(trials))),
    ]
    return write_report(run, f"Policy: {options.policy}", sections, f"run {run.name}")


def _read(folder: Path) -> Trial:
    episode = read_episode(folder, frames=False)
    return Trial(folder, str(episode.metadata.get("task", "")), episode.success, episode.length)


def _facts(options: EvaluatePolicyConfig) -> tuple[tuple[str, str], ...]:
    ahead = f"imagines {options.look_ahead} candidates before each chunk"
    sampled = f"sampled at temperature {options.temperature:g}" if options.temperature else "greedy"
    return (
        ("policy", options.policy),
        ("station file", options.config),
        ("how it acted", ahead if options.look_ahead else sampled),
        ("resets", f"seeds from {options.first_seed} on"),
        ("longest trial", f"{options.horizon} steps" if options.horizon else "as the station file says for the task"),
    )


def _bar(name: str, rate: Estimate) -> Bar:
    label = "all tasks" if name == "all" else name
    return Bar(label, finite_or_none(rate.mean), finite_or_none(rate.standard_error), rate.n)


def _films(run: Path, trials: Sequence[Trial]) -> list[Section]:
    """A strip of frames for each trial that is shown."""
    sections = []
    for title, success, room in (("Failures", False, SHOWN_FAILURES), ("Successes", True, SHOWN_SUCCESSES)):
        chosen = [trial for trial in trials if trial.success is success]
        figures = [figure for trial in chosen[:room] if (figure := _film(run, trial)) is not None]
        if figures:
            text = f"{len(figures)} of {len(chosen)}"
            sections.append(Section(title, text, figures=tuple(figures)))
    return sections


def _film(run: Path, trial: Trial) -> Figure | None:
    source = open_episode(trial.folder)
    strip = strip_of(source, chosen_frames(source.count(), PICTURES), float(bool(trial.success)))
    if strip is None:
        return None
    name = f"media/{trial.folder.name}.jpg"
    write_picture(run / name, strip)
    return Figure(name, f"{trial.folder.name}: {trial.task}, {trial.steps} steps")


def _rows(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    outcomes = {True: "success", False: "failure", None: "not judged"}
    return [(trial.folder.name, trial.task, outcomes[trial.success], str(trial.steps)) for trial in trials[:SHOWN_ROWS]]


def _left_out(count: int) -> str:
    return f"The first {SHOWN_ROWS} of {count}." if count > SHOWN_ROWS else ""

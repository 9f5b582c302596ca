"""`gymnast policy correlate`: does success in imagination say which policy is really better, and by how much?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.data.outcome import LABEL_THEM, Outcome, said_by
from gymnast_core.data.outcome import in_words as outcomes_in_words
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.correlate_config import CorrelateConfig
from gymnast_core.evaluation.correlate_page import in_words, write_correlate_page
from gymnast_core.evaluation.correlate_result import Measured, RealEpisode, correlate
from gymnast_core.evaluation.imagined_result import ImaginedResult
from gymnast_core.evaluation.imagined_starts import mark_of
from gymnast_core.files import user_path
from gymnast_core.progress import progress_bar, say
from gymnast_core.results import read_result
from gymnast_core.run_folder import RunFolder

SHARED = ("world model weights", "sampling", "judge", "confirmation")
"""What the imagined runs of one comparison should have in common."""


def correlate_policies(config: CorrelateConfig) -> int:
    """Print, draw and write what the runs say. Raises: ConfigError, DataError."""
    names = _names(config)
    imagined = [read_result(ImaginedResult, user_path(folder)) for folder in config.imagined]
    warnings = _differences(names, imagined)
    measured: list[Measured] = []
    outcomes: list[Outcome] = []
    with progress_bar() as bar:
        row = bar.add_task("reading episodes", total=len(names), note="")
        for name, result, folder in zip(names, imagined, config.real, strict=True):
            episodes = real_episodes(folder, result.horizon, result.side)
            measured.append(Measured(name, result, episodes))
            outcomes += [one.outcome for one in episodes if math.isfinite(one.value)]
            if short := sum(one.value == 0 and one.steps < result.horizon for one in episodes):
                warnings.append(f"{name}: {short} real failures ended before {result.horizon} steps")
            bar.advance(row)
    if judged := sum(outcome.judged for outcome in outcomes):
        warnings.append(f"{judged} real outcomes are another verdict of a judge, no truth: {LABEL_THEM}")
    _check_shared(measured)
    run = RunFolder(config.run or f"runs/correlate/{datetime.now():%Y%m%d_%H%M%S}", config, tensorboard=False)
    found = correlate(measured, config.seed, config.resamples, warnings)
    run.write_result(found)
    for line in in_words(found):
        say(line)
    say(f"real outcomes: {outcomes_in_words(said_by(outcomes))}")
    for words in warnings:
        say(f"warning: {words}", "yellow")
    write_correlate_page(run, found)
    say(f"report: {run.path / 'report.html'}")
    return 0


def real_episodes(folder: str, horizon: int, side: int) -> tuple[RealEpisode, ...]:
    """The episodes below a folder with what became of them within `horizon` steps.

    Raises: DataError where a file is damaged, or no episode has a known outcome.
    """
    found: list[RealEpisode] = []
    for source in find_all(folder):
        outcome, instruction = source.outcome(), source.describe().instruction.strip()
        success = success_within(source, outcome, horizon)
        value = math.nan if success is None else float(success)
        mark = mark_of(source.frame(0, side), instruction)
        found.append(RealEpisode(mark, instruction, value, source.count() - 1, outcome))
    if not any(math.isfinite(one.value) for one in found):
        raise DataError(
            f"{folder}: found {len(found)} episodes, none with a known outcome within {horizon} steps; {LABEL_THEM}"
        )
    return tuple(found)


def success_within(source: StoredEpisode, outcome: Outcome, horizon: int) -> bool | None:
    """Whether the task was done within the horizon; None where nobody knows. A success ends an episode, so a shorter
    one that ended otherwise counts as it ended."""
    steps = source.count() - 1
    known = outcome.within(min(steps, horizon))
    return outcome.success if known is None and steps <= horizon else known


def _names(config: CorrelateConfig) -> list[str]:
    """One for each policy. Raises: ConfigError."""
    if len(config.real) != len(config.imagined):
        raise ConfigError(
            f"real: found {len(config.real)} folders for {len(config.imagined)} imagined runs; needed one for each"
        )
    names = list(config.names) or [Path(folder).resolve().name for folder in config.imagined]
    if len(names) != len(config.imagined):
        raise ConfigError(f"names: found {len(names)} for {len(config.imagined)} imagined runs; needed one for each")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"names: found '{twice}' twice; name the policies apart (--names)")
    return names


def _check_shared(measured: Sequence[Measured]) -> None:
    """Raises: DataError where the policies have no instruction in common."""
    for one in measured:
        if not one.instructions():
            raise DataError(f"{one.name}: no instruction of its imagined run is among those of its real episodes")
    if not set.intersection(*(one.instructions() for one in measured)):
        raise DataError("imagined: the runs share no instruction; needed one that every policy was tried at")


def _differences(names: Sequence[str], results: Sequence[ImaginedResult]) -> list[str]:
    """What the runs differ in, and should not. Raises: ConfigError where that makes them no comparison."""
    first, warnings = results[0], []
    for name, result in zip(names, results):
        if (result.horizon, result.side) != (first.horizon, first.side):
            raise ConfigError(
                f"{name}: found {result.horizon} steps and frames of {result.side} pixels, {names[0]} has "
                f"{first.horizon} and {first.side}; needed the same for all"
            )
        if not result.complete:
            warnings.append(f"{name}: {result.done} of {result.planned} rollouts are done")
        other = [part for part in SHARED if result.made_with.get(part) != first.made_with.get(part)]
        if other:
            warnings.append(f"{name}: imagined with another {', '.join(other)} than {names[0]}")
    return warnings

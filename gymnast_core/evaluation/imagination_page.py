"""What the page of a world model's evaluation says about outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gymnast_core.config import AdaptationConfig
from gymnast_core.data.frames import write_image
from gymnast_core.data.outcome import in_words
from gymnast_core.evaluation.replay import ALL, Played
from gymnast_core.progress import say
from gymnast_core.reporting.report import Bar, Figure, Section
from gymnast_core.run_folder import RunFolder
from gymnast_core.world_model.fidelity import Fidelity, Standing
from gymnast_core.world_model.meters import MeterFigure

Standings = Mapping[str, Standing]
"""What practice would find of each instruction, and of "all": whether the gate of the station's file holds."""


def say_outcomes(fidelity: Fidelity, standings: Standings) -> None:
    """Print the figures, with a warning for each condition that practice would find broken."""
    say(f"real outcomes: {in_words(fidelity.outcomes_by)}")
    for name, replayed in fidelity.replay.items():
        say(
            f"replay, {name}: agreement {replayed.agreement:.2f} ± {replayed.standard_error:.2f} "
            f"(n = {replayed.episodes}; {replayed.false_positives} false positives, {replayed.false_negatives} false "
            f"negatives; the judge on the real frames: {_shown(replayed.judge_agreement)})"
        )
    for name, replayed in fidelity.confirmed.items():
        say(
            f"replay confirmed ({fidelity.confirmation}), {name}: agreement {replayed.agreement:.2f} ± "
            f"{replayed.standard_error:.2f} (n = {replayed.episodes}, {replayed.abstained} without a verdict; "
            f"{replayed.false_positives} false positives, {replayed.false_negatives} false negatives)"
        )
    for name, meter in fidelity.meters.items():
        say(f"meter, {name}: {_meter_words(meter)}")
    for name, found in fidelity.closed_loop.items():
        say(
            f"closed loop, {name}: imagined {found.imagined:.2f}, station {found.station:.2f}, bias {found.bias:+.2f} "
            f"± {found.standard_error:.2f} (n = {found.episodes})"
        )
    for warning in _warnings(standings):
        say(f"warning: {warning}: success in imagination says little", "yellow")


def outcome_sections(
    run: RunFolder,
    fidelity: Fidelity,
    standings: Standings,
    limits: AdaptationConfig,
    played: Sequence[Played],
    not_played: int,
) -> list[Section]:
    """The report's sections on outcomes. not_played: episodes that the policy did not play."""
    sections = [_replay_section(fidelity, standings, limits)]
    if fidelity.confirmed:
        sections.append(_confirmed_section(fidelity))
    if fidelity.meters:
        sections.append(_meter_section(fidelity))
    sections.append(_loop_section(fidelity, not_played))
    figures = _disagreements(run, played)
    if figures:
        sections.append(Section("Where imagination and station disagree", figures=figures))
    return sections


def _warnings(standings: Standings) -> list[str]:
    """Broken conditions, each with the instructions it is broken for."""
    names: dict[str, list[str]] = {}
    for name, standing in standings.items():
        for words in standing.failed:
            names.setdefault(words, []).append(name)
    return [f"{', '.join(found)}: {words}" for words, found in names.items()]


def _replay_section(fidelity: Fidelity, standings: Standings, limits: AdaptationConfig) -> Section:
    warnings = _warnings(standings)
    holds = (
        f"Agreement of at least {limits.min_agreement:.2f} and bias within {limits.max_bias:.2f} hold over the "
        f"{limits.horizon} steps that practice imagines."
    )
    overall = fidelity.replay.get(ALL)
    rows = [("instruction", "agreement", "episodes", "false positives", "false negatives", "judge on real frames")]
    rows += [
        (
            name,
            f"{found.agreement:.2f} ± {found.standard_error:.2f}",
            str(found.episodes),
            str(found.false_positives),
            str(found.false_negatives),
            _shown(found.judge_agreement),
        )
        for name, found in fidelity.replay.items()
    ]
    bars = [Bar("replay agreement", overall.agreement, overall.standard_error, overall.episodes)] if overall else []
    return Section(
        "Do replayed actions give the outcome that really happened?",
        ". ".join(warnings) or holds,
        "warning" if warnings else "good",
        facts=(
            ("judge", fidelity.judge),
            ("sampling", f"{fidelity.sampling}, {fidelity.horizon} steps"),
            ("data", ", ".join(fidelity.data)),
            ("real outcomes", in_words(fidelity.outcomes_by)),
        ),
        bars=tuple(bars),
        rows=tuple(rows),
    )


def _confirmed_section(fidelity: Fidelity) -> Section:
    rows = [("instruction", "agreement", "episodes", "without a verdict", "false positives", "false negatives")]
    rows += [
        (
            name,
            f"{found.agreement:.2f} ± {found.standard_error:.2f}",
            str(found.episodes),
            str(found.abstained),
            str(found.false_positives),
            str(found.false_negatives),
        )
        for name, found in fidelity.confirmed.items()
    ]
    return Section(
        "And where a success must be confirmed?",
        f"A success counts where it survives: {fidelity.confirmation}. One that does not is left without a verdict.",
        rows=tuple(rows),
    )


def _meter_section(fidelity: Fidelity) -> Section:
    rows = [("meter", "area under the curve", "limit", "agreement within it", "doubted")]
    rows += [
        (name, _area(meter), _shown(meter.limit), _shown(meter.agreement), _shown(meter.doubted))
        for name, meter in fidelity.meters.items()
    ]
    bars = [
        Bar(name, meter.auroc, meter.standard_error or 0.0, meter.episodes)
        for name, meter in fidelity.meters.items()
        if meter.auroc is not None
    ]
    first = next(iter(fidelity.meters.values()))
    return Section(
        "Do the meters tell which rollouts to doubt?",
        f"{first.differed} of {first.episodes} replays ended otherwise than they really did. A bar is the probability "
        "that such a one has a higher reading than another; 0.5 is chance.",
        bars=tuple(bars),
        rows=tuple(rows),
    )


def _area(meter: MeterFigure) -> str:
    return "-" if meter.auroc is None else f"{meter.auroc:.2f} ± {meter.standard_error or 0.0:.2f}"


def _meter_words(meter: MeterFigure) -> str:
    """One line: how well it tells the replays that ended otherwise, and what its limit costs and gains."""
    if meter.auroc is None:
        return f"nothing to tell apart ({meter.differed} of {meter.episodes} replays ended otherwise)"
    told = f"area under the curve {_area(meter)} ({meter.differed} of {meter.episodes} replays ended otherwise)"
    if meter.limit is None:
        return f"{told}; no better than chance, so no limit"
    return f"{told}; agreement {_shown(meter.agreement)} within {meter.limit:.2f}, {meter.doubted or 0.0:.0%} doubted"


def _loop_section(fidelity: Fidelity, not_played: int) -> Section:
    rows = [("instruction", "imagined", "station", "bias", "episodes")]
    rows += [
        (
            name,
            f"{found.imagined:.2f}",
            f"{found.station:.2f}",
            f"{found.bias:+.2f} ± {found.standard_error:.2f}",
            str(found.episodes),
        )
        for name, found in fidelity.closed_loop.items()
    ]
    temperatures = ", ".join(f"{t:g}" for t in fidelity.temperatures) or "-"
    return Section(
        "Is the policy as good in imagination as on the station?",
        f"Policy {fidelity.policy}, acting as in the episodes (temperature {temperatures}); {not_played} episodes that "
        "it did not play are left out.",
        rows=tuple(rows),
    )


def _disagreements(run: RunFolder, played: Sequence[Played]) -> tuple[Figure, ...]:
    """Pictures of replayed episodes that ended otherwise than they really did."""
    figures = []
    for number, one in enumerate(one for one in played if one.frames is not None):
        assert one.frames is not None
        half = len(one.frames) // 2
        rows = [np.concatenate(list(part), axis=1) for part in (one.frames[:half], one.frames[half:])]
        write_image(run.media(f"disagreement_{number}.jpg"), np.concatenate(rows, axis=0))
        truth = "completed" if one.entry.success else "not completed"
        words = f"'{one.entry.episode.instruction}', really {truth} (above); imagined (below): {one.imagined.reason}"
        figures.append(Figure(f"media/disagreement_{number}.jpg", words))
    return tuple(figures)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

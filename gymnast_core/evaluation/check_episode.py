"""All checks of one episode, in one pass over its files and frames."""

from __future__ import annotations

from collections.abc import Iterator

from gymnast_core.data.episode import Episode
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.errors import DataError, LengthError
from gymnast_core.evaluation.check_convention import check_convention
from gymnast_core.evaluation.check_files import (
    check_count,
    check_header,
    check_log,
    check_outcome,
    is_recording,
    told,
)
from gymnast_core.evaluation.check_frames import check_frames, look_at_frames
from gymnast_core.evaluation.check_motion import Facts, check_actions, check_stamps, check_states
from gymnast_core.evaluation.findings import Finding, Problem


def check_episode(source: StoredEpisode) -> tuple[Finding, ...]:
    """Everything that is wrong with an episode; empty where it is whole.

    Frames are read one at a time. Damage is a finding, never an error. Raises: Stopped.
    """
    path, recording = str(source.path), is_recording(source.path)
    try:
        return tuple(problem.of(path, recording) for problem in _problems(source))
    except Exception as error:  # whatever one episode holds, the others are checked
        words = " ".join(str(error).split())[:200]
        return (Problem("unexpected", f"{type(error).__name__}: {words}").of(path, recording),)


def _problems(source: StoredEpisode) -> list[Problem]:
    found: list[Problem] = []
    if is_recording(source.path):
        found += [*check_header(source.path), *check_log(source.path)]
    whole = not any(problem.code == "header_damaged" for problem in found)
    if whole:
        found += _check_description(source)
    episode: Episode | None = None
    if whole:
        try:
            episode = source.bridge_steps()
        except LengthError as error:
            found.append(Problem("lengths_differ", told(error, source.path)))
        except DataError as error:
            found += _without_steps(source, error)
            whole = False
    if whole:
        seen = look_at_frames(source)
        found += check_frames(seen, episode)
        if not seen.unreadable and not any(problem.code == "lengths_differ" for problem in found):
            found += check_outcome(source)
    if episode is not None:
        found += _check_numbers(source, episode)
    return found


def _without_steps(source: StoredEpisode, error: DataError) -> list[Problem]:
    """Frames can be looked at without the actions, unless the same file counts both."""
    steps = Problem("steps_unreadable", told(error, source.path))
    if is_recording(source.path):
        return [steps]
    seen = look_at_frames(source)
    cause = source.decoded_together and seen.unreadable  # a film that ends too soon has no whole count of rows either
    return [*([] if cause else [steps]), *check_frames(seen, None)]


def _check_description(source: StoredEpisode) -> list[Problem]:
    try:
        source.describe()
    except DataError as error:
        return [Problem("header_damaged", told(error, source.path))]
    return []


def _check_numbers(source: StoredEpisode, episode: Episode) -> Iterator[Problem]:
    """Steps and states of a Bridge arm."""
    try:
        facts: Facts = source.facts()
    except DataError as error:
        yield Problem("steps_unreadable", told(error, source.path))
        facts = ()
    if is_recording(source.path):
        yield from check_count(source.path, episode)
    yield from check_stamps(episode, facts)
    yield from check_states(episode)
    yield from check_actions(episode, facts)
    yield from check_convention(episode)
